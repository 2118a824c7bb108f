#!/usr/bin/env bash
# Install, from Debian's or Ubuntu's own packages, the programs that some tests drive for real: a browser for the report,
# network namespaces for several hosts, SLURM, a Docker engine, zsh. Without them these tests skip and say so. Needs root.
#
#   scripts/install_test_tools.sh                       all that are missing
#   scripts/install_test_tools.sh dockerd debootstrap   only these programs, if they are missing
set -euo pipefail

declare -A packages_of=(
  [chromedriver]='chromium chromium-driver'
  [debootstrap]='debootstrap'
  [dockerd]='docker.io'
  [ip]='iproute2'
  [slurmctld]='slurmctld slurmd slurm-client munge'
  [zsh]='zsh'
)
packages=()
for program in "${@:-${!packages_of[@]}}"; do
  found=${packages_of[$program]:-}
  [ -n "$found" ] || { echo "no package is known that brings $program" >&2 && exit 2; }
  # shellcheck disable=SC2206 # several packages are several words
  command -v "$program" >/dev/null 2>&1 || packages+=($found)
done
if [ ${#packages[@]} -eq 0 ]; then
  echo 'Nothing is missing.' >&2
  exit 0
fi
if [ "$EUID" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "to be installed first, as root: ${packages[*]}" >&2
  exit 1
fi
echo "installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# A service that starts by itself would stand in the way of the tests, which start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
