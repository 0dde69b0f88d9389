#!/usr/bin/env bash
# Runs on a worker: mounts a bucket at /mnt/kd, so that all workers see one
# folder which outlives them. Usage: mount.sh BUCKET
set -euo pipefail

bucket=$1
point=/mnt/kd

if mountpoint --quiet "$point"; then exit; fi

if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/gcsfuse.asc
  source=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error "$source/doc/apt-key.gpg" |
    sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $source gcsfuse-$(lsb_release -c -s) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  # A new machine updates itself for some minutes, and holds this lock.
  sudo apt-get -o DPkg::Lock::Timeout=600 --quiet update
  sudo apt-get -o DPkg::Lock::Timeout=600 --quiet --yes install gcsfuse
fi

sudo mkdir -p "$point"
sudo chown "$(id -u):$(id -g)" "$point"
# Nothing is remembered of what other workers may change meanwhile.
gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$bucket" "$point"
