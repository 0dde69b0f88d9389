#!/usr/bin/env bash
# Runs on a worker as long as kd does, and records its exit code.
# Usage: supervise.sh ARGUMENT...
set -euo pipefail

home=$HOME/kd
echo "$$" >"$home/run/session"
# shellcheck source=/dev/null
source "$home/environment"
cd "$home/source"

# A machine that shuts down sends SIGTERM to every process: kd then saves, and
# this shell has to outlive it.
signalled=''
trap 'signalled=yes' TERM INT

printf 'kd: %s: %s: kd' "$(date --utc +%FT%TZ)" "$(hostname)"
printf ' %q' "$@"
echo
"$KD_PYTHON" -u -m kd "$@" &
child=$!
echo "$child" >"$home/run/pid"
while true; do
  signalled='' code=0
  wait "$child" || code=$?
  # A signal ends the wait, not the program.
  if [[ ! $signalled ]]; then break; fi
done

echo "kd: $(date --utc +%FT%TZ): $(hostname): exit code $code"
echo "$code" >"$home/run/code.new"
mv "$home/run/code.new" "$home/run/code"
