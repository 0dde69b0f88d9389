#!/bin/bash
# Trains with four losses and three seeds, then writes a table. Run it from the
# repository. Only the runs of the first loss train the baseline, which uses
# labels only and is the same for all losses.
set -euo pipefail
out=${1:-/tmp/kd-experiments/other_tokenizer}
model=$out/digits.model
losses=(chunk_likelihood chunk_likelihood+labels forward_kl+labels uld+labels)
python -m experiments.other_tokenizer.train_tokenizer "$model"
for seed in 0 1 2; do
  baseline=True
  for loss in "${losses[@]}"; do
    python -m kd --config="experiments/other_tokenizer/config.py:$model,$loss" \
      --workdir="$out/$loss/$seed" --config.seed="$seed" \
      --config.evaluation.baseline="$baseline"
    baseline=False
  done
done
python -m experiments.other_tokenizer.compare experiments/other_tokenizer \
  "$out" "${losses[@]}"
