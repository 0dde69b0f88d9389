#!/bin/bash
# Trains the quickstart with three seeds, then writes the summary. Run it from
# the repository.
set -euo pipefail
out=${1:-/tmp/kd-experiments/quickstart}
for seed in 0 1 2; do
  python -m kd --config=configs/quickstart.py \
    --workdir="$out/$seed" --config.seed="$seed"
done
python -m experiments.summary experiments/quickstart "$out"/?
