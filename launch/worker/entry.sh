#!/usr/bin/env bash
# The entry point of the image: checks the bucket where one is mounted, then
# becomes kd, which the notice of a preemption has to reach.
set -euo pipefail

python=${KD_PYTHON:-$(cat /kd-python)}
if [[ ${KD_BUCKET:-} ]]; then
  owner=''
  # GKE sets both; the second in a multislice run only.
  if [[ ${TPU_WORKER_ID:-0} == 0 && ${MEGASCALE_SLICE_ID:-0} == 0 ]]; then
    owner=$KD_OWNER
  fi
  "$python" launch/worker/bucket.py /mnt/kd "$KD_BUCKET" "$owner" \
    "$KD_TAKEOVER" "$@"
fi
exec "$python" -u -m kd "$@"
