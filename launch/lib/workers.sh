# shellcheck shell=bash
# What is done on the slice's workers, over ssh, on all of them at once: a
# program that starts on some of a slice's workers waits for the others for ever.

# Where the workers keep things, below their home: the tree, the environment,
# the run.
readonly SOURCE=kd/source

# Usage: on_workers COMMAND. Fails where it failed on any worker.
on_workers() {
  gcloud_tpu tpu-vm ssh "${SETTING[name]}" --worker=all "--command=$1"
  run "${COMMAND[@]}"
}

# Runs a script of launch/worker there.
worker_script() {
  local script=$1
  shift
  on_workers "$(command_line bash "$SOURCE/launch/worker/$script" "$@")"
}

verb_setup() {
  local folder parcel setup
  if is_dry; then folder=/tmp/kd-launch; else folder=$(mktemp -d); fi
  parcel=$folder/kd.tar.gz
  # Called where `set -e` is off: each step says itself what follows.
  run mkdir -p "$folder" || return
  run tar --create --gzip "--file=$parcel" "--directory=$ROOT" --exclude-vcs \
    '--exclude=./bazel-*' --exclude=__pycache__ --exclude=./.venv \
    --exclude=./venv . || return
  gcloud_tpu tpu-vm scp "$parcel" "${SETTING[name]}:kd.tar.gz" --worker=all
  run "${COMMAND[@]}" || return
  run rm -rf "$folder"
  setup=$(command_line bash "$SOURCE.new/launch/worker/setup.sh" \
    "${SETTING[bucket]:-none}" "${SETTING[data_dir]:-none}")
  on_workers "rm -rf $SOURCE.new && mkdir -p $SOURCE.new && \
tar -xzf kd.tar.gz -C $SOURCE.new && $setup"
}

start_run() { worker_script start.sh "${LINE[@]}"; }

verb_run() {
  check_line
  if [[ -n ${SETTING[bucket]} && $WORKDIR != /mnt/kd/* ]]; then
    say "warning: $WORKDIR is not in the bucket, which is at /mnt/kd:" \
      "it is gone with the slice"
  fi
  if ! is_dry; then save_line "${LINE[@]}"; fi
  start_run
}

# Prints `kd-worker HOST STATE CODE` for each worker.
status_of_workers() {
  local script=$SOURCE/launch/worker/status.sh
  # A slice that was just created has no script yet.
  on_workers "if [ -e $script ]; then bash $script; else \
echo kd-worker \$(hostname) absent -; fi"
}

verb_status() { status_of_workers; }

verb_logs() {
  gcloud_tpu tpu-vm ssh "${SETTING[name]}" "--worker=${SETTING[worker]}" \
    '--command=tail -n 200 -F kd/run/log'
  run "${COMMAND[@]}"
}

verb_stop() { worker_script stop.sh "${SETTING[grace_seconds]}"; }

verb_collect() {
  local folder to=${SETTING[to]}
  load_line
  folder=$WORKDIR
  run mkdir -p "$to"
  if [[ -n ${SETTING[bucket]} && $folder == /mnt/kd/* ]]; then
    run gcloud storage rsync --recursive \
      "${SETTING[bucket]}/${folder#/mnt/kd/}" "$to" \
      "--project=${SETTING[project]}"
  else
    # A worker's own disk: with one worker, the whole run.
    gcloud_tpu tpu-vm scp --recurse --worker=0 "${SETTING[name]}:$folder/." "$to"
    run "${COMMAND[@]}"
  fi
  collect_logs "$to/workers.log"
}

# One file, each line behind its worker's name. Without a slice there is none.
collect_logs() {
  # shellcheck disable=SC2016 # The worker's shell expands it.
  gcloud_tpu tpu-vm ssh "${SETTING[name]}" --worker=all \
    '--command=sed "s/^/[$(hostname)] /" kd/run/log'
  if is_dry; then
    printf '%s > %s\n' "$(command_line "${COMMAND[@]}")" "$(quoted "$1")"
  elif ! run "${COMMAND[@]}" >"$1"; then
    say "warning: not all workers' logs could be read; see $1"
  fi
}
