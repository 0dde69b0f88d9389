#!/usr/bin/env bash
# Runs on every worker: creates the environment from the locks, mounts the bucket,
# and installs the new tree. Usage: setup.sh BUCKET|none DATA_DIR|none,
# from the new tree, in kd/source.new.
set -euo pipefail

bucket=$1
data_dir=$2
home=$HOME/kd
new=$home/source.new
mkdir -p "$home/run"

# A run holds the lock as long as one of its processes lives.
exec 9>"$home/run/lock"
if ! flock --nonblock 9; then
  echo "kd: $(hostname): a run is in progress; launch/tpu stop ends it" >&2
  exit 1
fi

# The images of TPU VMs have an older Python than kd needs. uv installs one
# without waiting for the machine's package manager.
find_python() {
  local name
  for name in python3.11 python3.12; do
    if command -v "$name" >/dev/null && "$name" -c 'import ensurepip'; then
      command -v "$name"
      return
    fi
  done
  python3 -m pip install --quiet --user --no-deps --require-hashes \
    --requirement "$new/requirements_uv.lock" >&2
  "$HOME/.local/bin/uv" python install --quiet 3.11 >&2
  "$HOME/.local/bin/uv" python find 3.11
}

python=$(find_python)
venv_python=$("$python" "$new/tools/make_venv.py" "$new/requirements.lock" \
  "$home/venvs" --source_only=promise)
"$venv_python" -m pip install --quiet --no-deps --require-hashes \
  --requirement "$new/requirements_libtpu.lock"

if [[ $bucket != none ]]; then
  bash "$new/launch/worker/mount.sh" "${bucket#gs://}"
fi

rm -rf "$home/source.old"
if [[ -e $home/source ]]; then mv "$home/source" "$home/source.old"; fi
mv "$new" "$home/source"
rm -rf "$home/source.old"

{
  printf 'KD_PYTHON=%q\n' "$venv_python"
  if [[ $bucket != none ]]; then printf 'KD_BUCKET=%q\n' "${bucket#gs://}"; fi
  if [[ $data_dir != none ]]; then printf 'export KD_DATA_DIR=%q\n' "$data_dir"; fi
} >"$home/environment"
echo "kd-worker $KD_WORKER $(hostname) ready -"
