#!/bin/sh
# Runs `trident …`, `luigi …` or `luigid …`, or any other program of the image. Bare options go to `trident`.
set -eu

case "${1:--}" in
-*) set -- trident "$@" ;;
esac
if ! command -v "$1" >/dev/null 2>&1; then
    echo "error: this image has no program $1; begin with trident, luigi or luigid" >&2
    exit 127
fi
# A user without an entry in /etc/passwd may have been given a HOME that is not his.
if [ ! -w "${HOME:-/}" ]; then
    export HOME=/tmp
fi
exec "$@"
