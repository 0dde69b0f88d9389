#!/usr/bin/env bash
# The entry point of the image: checks the bucket if one is mounted, then is
# replaced by kd, which must receive the notice of a preemption.
set -euo pipefail

python=${KD_PYTHON:-$(cat /kd-python)}
if [[ ${KD_BUCKET:-} ]]; then
  owner=''
  # GKE sets both, the second only in a multislice run.
  if [[ ${TPU_WORKER_ID:-0} == 0 && ${MEGASCALE_SLICE_ID:-0} == 0 ]]; then
    owner=$KD_OWNER
  fi
  "$python" launch/worker/bucket.py /mnt/kd "$KD_BUCKET" "$owner" \
    "$KD_TAKEOVER" "$@"
fi
exec "$python" -u -m kd "$@"
