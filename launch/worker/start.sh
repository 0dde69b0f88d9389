#!/usr/bin/env bash
# Runs on every worker: starts kd with these arguments, detached from the
# connection. Usage: start.sh START OWNER TAKEOVER ARGUMENT...
# START identifies this attempt and OWNER the slice. bucket.py explains TAKEOVER
# (yes|no).
set -euo pipefail

start=$1 owner=$2 takeover=$3
shift 3
home=$HOME/kd
mkdir -p "$home/run"

# All processes of the run inherit the lock: it is free once the last has ended.
exec 9>"$home/run/lock"
# status.sh holds the lock for a moment.
if ! flock --timeout 5 9; then
  # gcloud repeats a command if its connection broke.
  if [[ $start == "$(cat "$home/run/started" 2>/dev/null || true)" ]]; then
    echo "kd-worker $KD_WORKER $(hostname) started -"
    exit
  fi
  echo "kd: $(hostname): a run is in progress already" >&2
  exit 1
fi

# Without the mount, a restarted machine would write to its own disk.
# shellcheck source=/dev/null
source "$home/environment"
if [[ ${KD_BUCKET:-} ]]; then
  bash "$home/source/launch/worker/mount.sh" "$KD_BUCKET"
  case $KD_WORKER in
    0 | 0/0) ;;
    *) owner='' ;;
  esac
  "$KD_PYTHON" "$home/source/launch/worker/bucket.py" /mnt/kd "$KD_BUCKET" \
    "$owner" "$takeover" "$@"
fi

rm -f "$home/run/code" "$home/run/pid" "$home/run/session"
echo "$start" >"$home/run/started"

# Before the fork, as the connection may close before setsid runs.
trap '' HUP
setsid bash "$home/source/launch/worker/supervise.sh" "$@" \
  >>"$home/run/log" 2>&1 </dev/null &
echo "kd-worker $KD_WORKER $(hostname) started -"
