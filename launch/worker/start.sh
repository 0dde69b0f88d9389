#!/usr/bin/env bash
# Runs on every worker: starts kd.main with these arguments, free of the
# connection that brought them. Usage: start.sh ARGUMENT...
set -euo pipefail

home=$HOME/kd
mkdir -p "$home/run"

# Inherited by all that the run starts, so it is free once the last has ended.
exec 9>"$home/run/lock"
# Who only asks for the state holds it for a moment.
if ! flock --timeout 5 9; then
  echo "kd: $(hostname): a run is going on already" >&2
  exit 1
fi

# A machine that was restarted has lost its mount, and would write to its disk.
# shellcheck source=/dev/null
source "$home/environment"
if [[ ${KD_BUCKET:-} ]]; then
  bash "$home/source/launch/worker/mount.sh" "$KD_BUCKET"
fi

rm -f "$home/run/code" "$home/run/pid" "$home/run/session"
touch "$home/run/started"

# Before the fork: the connection may be closed before the child is on its own.
trap '' HUP
setsid bash "$home/source/launch/worker/supervise.sh" "$@" \
  >>"$home/run/log" 2>&1 </dev/null &
echo "kd: $(hostname): started"
