#!/bin/bash
# Scores the teacher's parts, trains four students with three seeds, then writes
# the summary. Run it from the repository, with the teacher's weights, for instance
# gguf:/path/to/gemma-3-270m.gguf, then optionally a folder for the runs and flags
# for all of them.
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/pruning_270m}
flags=(--config="configs/gemma3_270m_gsm8k.py:$weights"
  --config.student.keep_layers='()' --config.evaluation.baseline=False
  --config.student.prune.calibration_rows=512 --config.evaluation.batch_size=4
  --config.log.every=5 "${@:3}")
prune=--config.student.prune
python -m kd "${flags[@]}" --mode=prune --workdir="$out/scores"
scores=$out/scores/prune/scores.json
both=("$prune.layers=12" "$prune.mlp_dim=1344")
for seed in 0 1 2; do
  student() {
    python -m kd "${flags[@]}" --config.seed="$seed" --workdir="$out/$1-$seed" \
      "$prune.scores=$2" "${@:3}"
  }
  student depth "$scores" "$prune.layers=9"
  student width "$scores" "$prune.mlp_dim=960" "$prune.num_heads=2"
  student both "$scores" "${both[@]}"
  python -m experiments.pruning_270m.random_scores "$scores" "$seed" \
    "$out/random-$seed.json"
  student random "$out/random-$seed.json" "${both[@]}"
done
python -m experiments.pruning_270m.measure "$out"
