#!/bin/bash
# Trains with three seeds, writes their summary, exports the first student, and
# compares its log-probabilities with llama.cpp's. Run it from the repository,
# with the teacher's weights, for instance gguf:/path/to/gemma-3-270m.gguf, then
# optionally a folder for the runs and flags for all of them. KD_ORACLES_PYTHON is
# a Python with requirements_oracles.lock.
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/qat_270m}
flags=(--config="experiments/qat_270m/config.py:$weights" --config.log.every=5
  "${@:3}")
for seed in 0 1 2; do
  python -m kd "${flags[@]}" --config.seed="$seed" --workdir="$out/$seed"
done
python -m experiments.summary experiments/qat_270m "$out"/?
python -m kd "${flags[@]}" --config.seed=0 --workdir="$out/0" --mode=export
python -m experiments.qat_270m.llama_cpp "$out/0"
