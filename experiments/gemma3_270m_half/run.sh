#!/bin/bash
# Trains with three seeds, writes their summary, and exports the first student.
# Run it from the repository, with the teacher's weights, for instance
# gguf:/path/to/gemma-3-270m.gguf, then optionally a folder for the runs and flags
# for all of them.
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/gemma3_270m_half}
flags=(--config="configs/gemma3_270m_gsm8k.py:$weights" --config.log.every=5 "${@:3}")
for seed in 0 1 2; do
  python -m kd "${flags[@]}" --config.seed="$seed" --workdir="$out/$seed"
done
python -m experiments.summary experiments/gemma3_270m_half "$out"/?
python -m kd "${flags[@]}" --config.seed=0 --workdir="$out/0" --mode=export
