#!/bin/bash
# Three seeds, then the summary. Run it from the repository.
set -euo pipefail
out=${1:-/tmp/kd-experiments/other_tokenizer}
model=$out/digits.model
python -m experiments.other_tokenizer.train_tokenizer "$model"
for seed in 0 1 2; do
  python -m kd --config="experiments/other_tokenizer/config.py:$model" \
    --workdir="$out/$seed" --config.seed="$seed"
done
python -m experiments.summary experiments/other_tokenizer "$out"/?
