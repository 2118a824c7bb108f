#!/usr/bin/env bash
# Run one cohort on several hosts that share a folder: a luigid here, and a run on each host, all on one job directory.
#
#   scripts/fleet.sh HOSTS_FILE ADDRESS -- --task all --wsi-dir /shared/slides --job-dir /shared/job --skip-errors ...
#
# HOSTS_FILE: one host a line (empty lines and # comments are passed over). ADDRESS: the address of this host that the
# others can reach; luigid listens there, on port LUIGID_PORT (8082), while this runs, and has LUIGID_START_S (120) seconds
# to answer. It has no password: choose a network that you trust. After `--` come the options of RunCohort, as for
# `luigi`. On every host the project lies in the same folder as here, with its .venv. FLEET_RSH ("ssh -o BatchMode=yes")
# runs a command on a host.
# Each host's log goes to fleet-<host>.log in LOG_DIR (the current folder). The exit code is the largest of the hosts' codes.
set -euo pipefail

if [ $# -lt 4 ] || [ "$3" != "--" ]; then
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
hosts_file=$1 address=$2
shift 3
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
port=${LUIGID_PORT:-8082}
url="http://$address:$port"
logs=${LOG_DIR:-.}
read -r -a rsh <<<"${FLEET_RSH:-ssh -o BatchMode=yes}"
mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$hosts_file")
if [ -n "$(printf '%s\n' "${hosts[@]}" | sort | uniq -d)" ]; then
  echo "error: $hosts_file names a host twice" >&2
  exit 2
fi
for option in "$@"; do
  case "$option" in
  --overwrite*)
    echo 'error: --overwrite on several hosts would have each make everything anew; run it on one host' >&2
    exit 2
    ;;
  esac
done
if [ ${#hosts[@]} -eq 0 ]; then
  echo "error: $hosts_file names no host" >&2
  exit 2
fi
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)

answers() { # as a connection and not by HTTP, which could go to a proxy; a network that drops packets would keep us long
  timeout 2 bash -c 'exec 3<>"/dev/tcp/$1/$2"' answers "$address" "$port" 2>/dev/null
}
if answers; then
  echo "error: something answers at $url already; end it, or set LUIGID_PORT to a free port" >&2
  exit 2
fi

cd "$home"
.venv/bin/luigid --address "$address" --port "$port" >"$logs/fleet-luigid.log" 2>&1 &
luigid=$!
declare -A pids
stop() { # the runs stop cleanly where the connection passes on its end (ssh -tt does)
  kill "${pids[@]}" "$luigid" 2>/dev/null || true
}
trap stop EXIT
trap 'exit 130' INT TERM
latest=$((SECONDS + ${LUIGID_START_S:-120}))
until answers; do
  if ! kill -0 "$luigid" 2>/dev/null; then
    echo "error: luigid does not start at $url; see $logs/fleet-luigid.log" >&2
    exit 1
  fi
  if [ "$SECONDS" -ge "$latest" ]; then
    echo "error: luigid does not answer at $url; is $address an address of this host? see $logs/fleet-luigid.log" >&2
    exit 1
  fi
  sleep 0.2
done
if ! kill -0 "$luigid" 2>/dev/null; then # somebody else answered
  echo "error: luigid does not start at $url; see $logs/fleet-luigid.log" >&2
  exit 1
fi
echo "luigid's page: $url"

command=$(printf '%q ' .venv/bin/luigi --module luigi_tasks RunCohort --scheduler-url "$url" "$@")
script="cd $(printf '%q' "$home") && exec $command"
for host in "${hosts[@]}"; do
  "${rsh[@]}" "$host" bash -s >"$logs/fleet-$host.log" 2>&1 <<<"$script" &
  pids[$host]=$!
  echo "$host: started; its log: $logs/fleet-$host.log"
done
worst=0
for host in "${hosts[@]}"; do
  code=0
  wait "${pids[$host]}" || code=$?
  echo "$host: exit code $code"
  if [ "$code" -gt "$worst" ]; then worst=$code; fi
done
exit "$worst"
