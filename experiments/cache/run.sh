#!/bin/bash
# Trains the student of experiments/gemma3_270m_half, then measures a cache of
# each kind. Run it from the repository, with the teacher's weights as the
# argument, for instance gguf:/path/to/gemma-3-270m.gguf
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/cache}
config=configs/gemma3_270m_gsm8k.py:$weights
python -m kd --config="$config" --workdir="$out/student" \
  --config.evaluation.baseline=False
mkdir -p "$out/caches"
python -m experiments.cache.measure "$weights" "$out/student" "$out/caches"
