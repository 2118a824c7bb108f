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
# Every step leaves alone what is there already. Exit code 75: this machine cannot run such an engine, or nothing can be
# fetched for it; the last line says why. Any other but 0 is a failure.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=${ENGINE_DIR:-/var/tmp/trident-engine}
base=trident-base:bookworm
proof=trident-proof:latest
suite=bookworm
python=${PYTHON:-.venv/bin/python}
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' trident/__init__.py)
export DOCKER_HOST=unix://$dir/docker.sock

say() { echo "docker_engine: $*" >&2; }
fail() {
    say "$*"
    exit 1
}
# The machine is the reason, and nothing of what is tested.
cannot() {
    say "containers cannot be tested on this machine: $*"
    exit 75
}
last_line() { sed '/^[[:space:]]*$/d' "$@" | tail -n 1; }
# Another docker in PATH may lack BuildKit's client; Debian's own has it.
docker() { if [ -x /usr/bin/docker ]; then /usr/bin/docker "$@"; else command docker "$@"; fi; }
answers() { [ -S "$dir/docker.sock" ] && docker info >/dev/null 2>&1; }

packages() {
    scripts/install_test_tools.sh dockerd debootstrap || cannot "docker.io and debootstrap cannot be installed"
}

# Become a program that is to outlive this script.
become_server() {
    # Nothing that whoever calls has open, such as a lock, is to stay open for as long as the engine lives.
    local open
    for open in /proc/self/fd/*; do
        open=${open##*/}
        [ "$open" -le 2 ] || eval "exec $open>&-"
    done
    exec setsid "$@" </dev/null
}

# Wait until a command succeeds: half a minute at most, and no longer than a process lives.
wait_for() {
    local process=$1
    shift
    for _ in $(seq 150); do
        kill -0 "$process" 2>/dev/null || return
        "$@" && return
        sleep 0.2
    done
    return 1
}

# dockerd would take the machine's containerd where it finds its socket, even one that nobody listens to any more.
start_containerd() {
    cat >"$dir/containerd.toml" <<EOF
version = 2
root = "$dir/containerd"
state = "$dir/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$dir/containerd.sock"
[debug]
address = "$dir/containerd-debug.sock"
EOF
    rm -f "$dir"/containerd*.sock*
    become_server containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
    local process=$!
    echo "$process" >"$dir/containerd.pid"
    wait_for "$process" test -S "$dir/containerd.sock"
}

start_dockerd() {
    # A pid file of an engine that was killed would keep this one from starting.
    rm -f "$dir/dockerd.pid" "$dir/docker.sock"
    become_server dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
        --containerd "$dir/containerd.sock" --host "$DOCKER_HOST" --storage-driver "$1" \
        --iptables=false --ip6tables=false --bridge=none --exec-opt native.cgroupdriver=cgroupfs >"$dir/dockerd.log" 2>&1 &
    wait_for $! answers
}

# An engine that answers may still lack the rights to unpack an image or to run it: try both, with a program of 2 MB.
import_proof() {
    local files
    mapfile -t files < <(ldd /bin/true | grep -oE '/[^ ]+' | sed 's,^/*,,')
    tar -C / -ch bin/true "${files[@]}" | timeout 120 docker import - "$proof"
}
run_proof() {
    timeout 120 docker run --rm --network none --pid host --read-only --tmpfs /tmp --cap-drop ALL \
        --security-opt no-new-privileges "$proof" /bin/true
}
works() {
    local status=0
    { import_proof && run_proof; } >"$dir/proof.log" 2>&1 || status=$?
    docker image rm --force "$proof" >/dev/null 2>&1 || true
    return $status
}

start() {
    [ "$(id -u)" -eq 0 ] || cannot "an engine needs root"
    local program storage why
    for program in dockerd containerd; do
        command -v $program >/dev/null || cannot "there is no $program; run: scripts/docker_engine.sh packages"
    done
    mkdir -p "$dir"
    if answers; then
        works && return
        cannot "the engine runs no container: $(last_line "$dir/proof.log")"
    fi
    for storage in overlay2 vfs; do
        stop
        if ! start_containerd; then
            why="containerd does not start: $(last_line "$dir/containerd.log")"
        elif ! start_dockerd $storage; then
            why="dockerd does not start with $storage: $(last_line "$dir/dockerd.log")"
        elif ! works; then
            why="the engine runs no container with $storage: $(last_line "$dir/proof.log")"
        else
            return 0
        fi
        stop
    done
    cannot "$why"
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

make_base() {
    has_image "$base" && return
    command -v debootstrap >/dev/null || cannot "there is no debootstrap; run: scripts/docker_engine.sh packages"
    # The mirror that this machine uses, if it is one of Debian; else debootstrap has one.
    local mirror
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true; } |
        sed -nE 's,^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+/debian)/?( .*)?$,\3,p' | sed -n 1p)
    say "making the base image (a minute)"
    rm -rf "$dir/rootfs"
    # It tries each file ten times, which takes hours where nothing answers.
    timeout 600 debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$dir/rootfs" \
        ${mirror:+"$mirror"} >"$dir/debootstrap.log" 2>&1 ||
        cannot "debootstrap makes no base image: $(last_line "$dir/debootstrap.log")"
    rm -rf "$dir"/rootfs/var/cache/apt/archives/*.deb "$dir"/rootfs/var/lib/apt/lists/* "$dir"/rootfs/var/log/*
    : >"$dir/rootfs/etc/apt/sources.list"
    tar -C "$dir/rootfs" -c . | docker import --change 'ENV LANG=C.UTF-8' - "$base" >"$dir/import.log" 2>&1 ||
        cannot "the base image is not unpacked: $(last_line "$dir/import.log")"
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

has_ended() { case $(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) in '' | Z*) ;; *) false ;; esac }

stop() {
    local program process
    for program in dockerd containerd; do
        process=$(cat "$dir/$program.pid" 2>/dev/null) || continue
        # Not a process that was given the same number since.
        [ "$(cat "/proc/$process/comm" 2>/dev/null)" = $program ] || continue
        kill "$process"
        for _ in $(seq 150); do
            has_ended "$process" && continue 2
            sleep 0.2
        done
        fail "the engine ($program, process $process) does not stop"
    done
}

run_tests() {
    packages
    answers || trap stop EXIT
    start
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
    # A container that was built without a network leaves a name of its own mounted.
    for mounted in "$dir"/exec/netns/*; do umount "$mounted" 2>/dev/null || true; done
    rm -rf "$dir"
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
