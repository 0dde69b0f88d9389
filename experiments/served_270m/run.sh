#!/bin/bash
# Trains with the same teacher live, from a cache, and on two servers, then
# compares the losses of each step. Run it from the repository, with the
# teacher's weights, for instance gguf:/path/to/gemma-3-270m.gguf, then optionally
# a folder for the runs. llama.cpp's server runs in KD_ORACLES_PYTHON.
set -euo pipefail
weights=${1:?the weights of the teacher are missing: for instance gguf:FILE}
out=${2:-/tmp/kd-experiments/served_270m}
port=${KD_PORT:-8017}
config=experiments/served_270m/config.py
mkdir -p "$out"

# All use the same float32 weights: llama.cpp multiplies other types in fewer
# bits.
python -m kd export --config="experiments/lm_eval_270m/config.py:$weights" \
  --workdir="$out/weights" --config.export.formats="('gguf',)" \
  --config.export.gguf_type="('F32',)"
file=$out/weights/export/gguf/model-F32.gguf

train() { # NAME FROM [FLAGS]
  python -m kd --config="$config:gguf:$file,$2" --workdir="$out/$1" "${@:3}"
}

train live live
python -m kd --mode=cache --config="$config:gguf:$file" \
  --config.cache.folder="$out/targets" --workdir="$out/report"
train cached "$out/targets"

python -m kd serve "teacher=gguf:$file" --config.serve.port="$port" \
  --config.serve.max_batch=1 --config.serve.max_length=256 \
  --config.serve.queue=1000 --config.serve.timeout_ms=600000 \
  >"$out/serve.log" 2>&1 &
trap 'kill "$!"' EXIT
until curl --silent --fail "http://127.0.0.1:$port/health"; do
  kill -0 "$!"
  sleep 1
done
train kd "http://127.0.0.1:$port/v1" \
  --config.teacher.server.folder="$out/kd-replies"
kill "$!"
trap - EXIT

coproc llama { "$KD_ORACLES_PYTHON" tests/oracles/llama.py serve "$file"; }
read -r url <&"${llama[0]}"
train llama_cpp "$url/v1" \
  --config.teacher.server.folder="$out/llama-replies"

python -m experiments.served_270m.compare "$out" live cached kd llama_cpp
