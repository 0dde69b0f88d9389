#!/bin/bash
# Searches paths, trains both students with three seeds, and counts the puzzles
# that they solve. Run it from the repository, with the game24 data in
# KD_DATA_DIR.
set -euo pipefail
out=${1:-/tmp/kd-experiments/game24}
: "${KD_DATA_DIR:?set it to a folder with game24/24.csv}"
config=experiments/game24/config
python -m kd --mode=search --config="${config}_paths.py" --workdir="$out/paths"
export KD_TRACES=$out/paths/search/paths.jsonl
for seed in 0 1 2; do
  for kind in trace answer; do
    python -m kd --config="${config}_$kind.py" --workdir="$out/$kind-$seed" \
      --config.seed=$seed
  done
done
python -m experiments.game24.measure "$out"
