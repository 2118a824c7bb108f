#!/usr/bin/env bash
# A container engine of our own for tests and trials: nothing of the machine's own engine is touched, no image registry is
# needed. Everything lies in one folder (ENGINE_DIR), the socket included. Needs root, Debian's docker.io and debootstrap.
#
#   scripts/docker_engine.sh packages         install what is missing (apt-get)
#   scripts/docker_engine.sh start            start the engine, and print its DOCKER_HOST
#   scripts/docker_engine.sh base             make the base image, a Debian with Python, from this machine's package mirror
#   scripts/docker_engine.sh image cpu|gpu    build the image on that base
#   scripts/docker_engine.sh test [small]     all of it, then the tests of containers; small: without building the image
#   scripts/docker_engine.sh stop             stop the engine
#   scripts/docker_engine.sh clean            stop it and remove the folder
#
# Every step leaves alone what is there already.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=${ENGINE_DIR:-/var/tmp/trident-engine}
base=trident-base:bookworm
suite=bookworm
python=${PYTHON:-.venv/bin/python}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' trident/__init__.py)
export DOCKER_HOST=unix://$dir/docker.sock

say() { echo "docker_engine: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
# Another docker in PATH may lack BuildKit's client; Debian's own has it.
docker() { if [ -x /usr/bin/docker ]; then /usr/bin/docker "$@"; else command docker "$@"; fi; }
answers() { [ -S "$dir/docker.sock" ] && docker info >/dev/null 2>&1; }

packages() { scripts/install_test_tools.sh dockerd debootstrap; }

run_engine() {
    # Nothing that whoever calls has open, such as a lock, is to stay open for as long as the engine lives.
    local open
    for open in /proc/self/fd/*; do
        open=${open##*/}
        [ "$open" -le 2 ] || eval "exec $open>&-"
    done
    exec setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
        --host "$DOCKER_HOST" --storage-driver "$1" --iptables=false --ip6tables=false --bridge=none \
        --exec-opt native.cgroupdriver=cgroupfs </dev/null >"$dir/dockerd.log" 2>&1
}

start() {
    answers && return
    [ "$(id -u)" -eq 0 ] || fail "the engine needs root"
    command -v dockerd >/dev/null || fail "there is no dockerd; run: scripts/docker_engine.sh packages"
    mkdir -p "$dir"
    # A pid file of an engine that was killed would keep this one from starting.
    rm -f "$dir/dockerd.pid" "$dir/docker.sock"
    local storage
    for storage in overlay2 vfs; do
        run_engine "$storage" &
        local process=$!
        for _ in $(seq 150); do
            answers && return
            kill -0 "$process" 2>/dev/null || break
            sleep 0.2
        done
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
        say "no engine with $storage: $(tail -n 1 "$dir/dockerd.log")"
    done
    fail "no container engine can run here; its log is $dir/dockerd.log"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

make_base() {
    has_image "$base" && return
    command -v debootstrap >/dev/null || fail "there is no debootstrap; run: scripts/docker_engine.sh packages"
    local mirror
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true; } |
        sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+).*/\3/p' | sed -n 1p)
    [ -n "$mirror" ] || fail "no package mirror is named in /etc/apt/sources.list or sources.list.d/debian.sources"
    say "making the base image (a minute)"
    rm -rf "$dir/rootfs"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$dir/rootfs" "$mirror" \
        >"$dir/debootstrap.log" 2>&1 || fail "debootstrap failed; its log is $dir/debootstrap.log"
    rm -rf "$dir"/rootfs/var/cache/apt/archives/*.deb "$dir"/rootfs/var/lib/apt/lists/* "$dir"/rootfs/var/log/*
    : >"$dir/rootfs/etc/apt/sources.list"
    tar -C "$dir/rootfs" -c . | docker import --change 'ENV LANG=C.UTF-8' - "$base" >/dev/null
    rm -rf "$dir/rootfs"
}

build_image() {
    local target=$1 tag=trident-luigi:$version
    case $target in
    cpu) tag+=-cpu ;;
    gpu) ;;
    *) fail "image cpu or image gpu, not $target" ;;
    esac
    "$python" scripts/pip_secret.py "$dir/secrets"
    say "building $tag (the first time some minutes; its log is $dir/build-$target.log)"
    local status=0
    DOCKER_BUILDKIT=1 docker build --network host --progress plain --file containers/Dockerfile --target "$target" \
        --build-arg "BASE=$base" --build-arg "VERSION=$version" --tag "$tag" \
        --secret "id=pip,src=$dir/secrets/pip.conf" --secret "id=ca,src=$dir/secrets/ca" . \
        >"$dir/build-$target.log" 2>&1 || status=$?
    rm -rf "$dir/secrets"
    [ $status -eq 0 ] || fail "the build failed: $(tail -n 1 "$dir/build-$target.log")"
    echo "$tag"
}

stop() {
    [ -s "$dir/dockerd.pid" ] || return 0
    local process
    process=$(cat "$dir/dockerd.pid")
    # Not a process that was given the same number since.
    [ "$(cat "/proc/$process/comm" 2>/dev/null)" = dockerd ] || return 0
    kill "$process"
    for _ in $(seq 150); do
        [ -d "/proc/$process" ] || return 0
        sleep 0.2
    done
    fail "the engine (process $process) does not stop"
}

run_tests() {
    packages
    if ! answers; then
        start
        trap stop EXIT
    fi
    make_base
    if [ "${1:-}" != small ]; then
        TRIDENT_TEST_IMAGE=$(build_image cpu)
        export TRIDENT_TEST_IMAGE
    fi
    TRIDENT_TEST_ENGINE=$DOCKER_HOST TRIDENT_TEST_BASE=$base "$python" -m pytest tests/containers
}

case ${1:-} in
packages) packages ;;
start) start && echo "DOCKER_HOST=$DOCKER_HOST" ;;
base) start && make_base ;;
image) start && make_base && build_image "${2:-}" ;;
test) run_tests "${2:-}" ;;
stop) stop ;;
clean)
    stop
    rm -rf "$dir"
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
