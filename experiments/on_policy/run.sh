#!/bin/bash
# Trains all students with three seeds, then writes the summary. Run it from the
# repository.
set -euo pipefail
out=${1:-/tmp/kd-experiments/on_policy}
config=experiments/on_policy/config
for seed in 0 1 2; do
  python -m kd --config="${config}_start.py" --workdir="$out/start-$seed" \
    --config.seed="$seed"
  for kind in cross_entropy off_policy on_policy mixed; do
    python -m kd --config="${config}_$kind.py:workdir:$out/start-$seed" \
      --workdir="$out/$kind-$seed" --config.seed="$seed"
  done
done
python -m experiments.on_policy.measure experiments/on_policy "$out" \
  start cross_entropy off_policy on_policy mixed
