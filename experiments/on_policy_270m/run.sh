#!/bin/bash
# Trains a student of half the depth, continues from it in six ways with three
# seeds each, lets all students answer problems, and writes the summary. Run it
# from the repository, with the teacher's weights, for instance
# gguf:/path/to/gemma-3-270m.gguf, then optionally a folder for the runs and flags
# for all runs except the first.
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/on_policy_270m}
config=experiments/on_policy_270m/config.py
kinds=(cross_entropy forward_data reverse_data forward_own reverse_own mixed)
python -m kd --config="$config:$weights" --workdir="$out/start-0"
for seed in 0 1 2; do
  for kind in "${kinds[@]}"; do
    python -m kd --config="$config:$weights,$kind,$out/start-0" \
      --config.seed="$seed" --workdir="$out/$kind-$seed" "${@:3}"
  done
done
for workdir in "$out"/*-[0-9]; do
  python -m kd --mode=eval --workdir="$workdir" \
    --config.evaluation.sets.held_out.answers=32 \
    --config.evaluation.batch_size=32
done
python -m experiments.on_policy.measure experiments/on_policy_270m "$out" \
  start "${kinds[@]}"
