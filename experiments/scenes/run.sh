#!/bin/bash
# Trains configs/scenes.py with three seeds, then writes the summary and the
# picture of answers. Run it from the repository.
set -euo pipefail
out=${1:-/tmp/kd-experiments/scenes}
for seed in 0 1 2; do
  python -m kd --config=configs/scenes.py \
    --workdir="$out/$seed" --config.seed="$seed"
done
python -m experiments.summary experiments/scenes "$out"/?
python -m experiments.scenes.draw_answers experiments/scenes/answers.png "$out/0"
