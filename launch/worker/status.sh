#!/usr/bin/env bash
# Runs on a worker: prints `kd-worker HOST STATE CODE`.
set -euo pipefail

run=$HOME/kd/run
state=absent code=-
if [[ -e $run/started ]]; then
  exec 9>"$run/lock"
  # The lock is free before the code is looked at: no code then is none for ever.
  if ! flock --shared --nonblock 9; then
    state=running
  elif [[ -e $run/code ]]; then
    state=ended code=$(cat "$run/code")
  else
    state=lost
  fi
fi
echo "kd-worker $(hostname) $state $code"
