#!/usr/bin/env bash
# Install, from Debian's or Ubuntu's own packages, the programs that some tests drive for real: a browser for the report,
# network namespaces for several hosts, SLURM, a Docker engine. Without them these tests skip and say so. Needs root.
set -euo pipefail

packages=()
need() { # program, packages that bring it
  local program=$1
  shift
  if ! command -v "$program" >/dev/null 2>&1; then packages+=("$@"); fi
}
need chromedriver chromium chromium-driver
need ip iproute2
need slurmctld slurmctld slurmd slurm-client munge
need dockerd docker.io
need debootstrap debootstrap
if [ ${#packages[@]} -eq 0 ]; then
  echo 'All programs of the tests are there.'
  exit 0
fi
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
