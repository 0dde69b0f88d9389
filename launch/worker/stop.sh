#!/usr/bin/env bash
# Runs on a worker: asks kd.main to save and end, and ends what does not.
# Usage: stop.sh SECONDS
set -euo pipefail

run=$HOME/kd/run
mkdir -p "$run"
exec 9>"$run/lock"
if ! flock --nonblock 9; then
  if [[ -e $run/pid ]]; then kill -TERM "$(cat "$run/pid")" || true; fi
  if ! flock --timeout "$1" 9; then
    # Its whole session, the writer of the exit code included.
    kill -KILL -- "-$(cat "$run/session")" || true
    flock --timeout 30 9
  fi
fi
echo "kd: $(hostname): no run is going on"
