#!/bin/bash
# The run, its summary, and the export. Run it from the repository, with the
# teacher's weights as the argument, for instance gguf:/path/to/gemma-3-270m.gguf
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/gemma3_270m_half}
config=configs/gemma3_270m_gsm8k.py:$weights
python -m kd.main --config="$config" --workdir="$out" --config.log.every=5
python -m experiments.summary experiments/gemma3_270m_half "$out"
python -m kd.main --config="$config" --workdir="$out" --config.log.every=5 \
  --mode=export
