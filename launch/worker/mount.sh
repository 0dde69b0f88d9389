#!/usr/bin/env bash
# Runs on a worker: mounts a bucket at /mnt/kd, one folder that all workers see
# and that outlives them. Usage: mount.sh BUCKET
set -euo pipefail

bucket=$1
point=/mnt/kd

if mountpoint --quiet "$point"; then exit; fi

# Prints the major version, or nothing if gcsfuse is not installed.
installed() {
  gcsfuse --version 2>/dev/null | sed -n 's/^gcsfuse version \([0-9]*\).*/\1/p'
}

# The flags below are those of version 3.
if (($(installed || true) + 0 < 3)); then
  key=/usr/share/keyrings/gcsfuse.asc
  source=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error "$source/doc/apt-key.gpg" |
    sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $source gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A new machine updates itself for some minutes and holds this lock.
  sudo apt-get -o DPkg::Lock::Timeout=600 --quiet update
  sudo apt-get -o DPkg::Lock::Timeout=600 --quiet --yes install gcsfuse
fi

sudo mkdir -p "$point"
sudo chown "$(id -u):$(id -g)" "$point"
# Metadata is not cached, as other workers may change it. With streaming writes,
# only close would write a file to the bucket, not fsync: metrics.jsonl and
# TensorBoard's events, which stay open, would be lost if the machine is killed.
gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 \
  --enable-streaming-writes=false "$bucket" "$point"
