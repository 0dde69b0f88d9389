#!/usr/bin/env bash
# Runs on a worker: tells kd to save and end, and kills it if it does not end
# within SECONDS. Usage: stop.sh SECONDS [START]. With START, stops only the run of
# this start.sh.
set -euo pipefail

run=$HOME/kd/run
mkdir -p "$run"
exec 9>"$run/lock"
if [[ ! ${2:-} || $2 == "$(cat "$run/started" 2>/dev/null || true)" ]] &&
  ! flock --nonblock 9; then
  if [[ -e $run/pid ]]; then kill -TERM "$(cat "$run/pid")" || true; fi
  if ! flock --timeout "$1" 9; then
    # The whole session, including supervise.sh.
    kill -KILL -- "-$(cat "$run/session")" || true
    flock --timeout 30 9
  fi
fi
echo "kd-worker $KD_WORKER $(hostname) stopped -"
