#!/usr/bin/env bash
# Runs on a worker: prints `kd-worker ID HOST STATE CODE`.
set -euo pipefail

run=$HOME/kd/run
state=absent code=-
if [[ -e $run/started ]]; then
  exec 9>"$run/lock"
  # The code is read while the lock is free: if there is none, the run died
  # without writing it.
  if ! flock --shared --nonblock 9; then
    state=running
  elif [[ -e $run/code ]]; then
    state=ended code=$(cat "$run/code")
  else
    state=lost
  fi
fi
echo "kd-worker $KD_WORKER $(hostname) $state $code"
