# shellcheck shell=bash
# Commands for the slice's workers. ssh runs them on all workers at once: a
# program that starts on some of a slice's workers waits for the others forever.
# gcloud may return 0 although a worker did not answer. Therefore every script of
# launch/worker ends with a line `kd-worker ID HOST STATE CODE`, and these lines
# are counted.

# Folder of the tree on a worker, below its home.
readonly SOURCE=kd/source
# Sets KD_WORKER on a worker to its number in the slice, or to SLICE/NUMBER in a
# multislice run. JAX reads the same numbers from the metadata server.
# shellcheck disable=SC2016 # The worker's shell expands it.
readonly WHO='m=http://metadata.google.internal/computeMetadata/v1/instance/attributes; '\
'ask() { curl -sf -H Metadata-Flavor:Google "$m/$1"; }; '\
'slice=$(ask tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *.\([0-9]*\).*/\1/p"); '\
'export KD_WORKER=${slice:+$slice/}$(ask agent-worker-number); '

# Usage: connection ssh|scp ARGUMENT... Runs it for all workers.
connection() {
  local verb=$1 track='' flags
  shift
  mapfile -t flags < <(setting_list connect_flag)
  case ${SETTING[connect]} in
    internal) flags=(--internal-ip "${flags[@]}") ;;
    iap) flags=(--tunnel-through-iap "${flags[@]}") ;;
  esac
  if is_multislice && [[ $* == *--worker=all* ]]; then
    gcloud_tpus run '' queued-resources "$verb" "$@" --node=all "${flags[@]}"
    return
  fi
  # For one slice, IAP exists only in the alpha track.
  if [[ ${SETTING[connect]} == iap ]]; then track=alpha; fi
  gcloud_tpus run "$track" tpu-vm "$verb" "$@" "${flags[@]}"
}

# Usage: on_workers COMMAND. Fails if it failed on any worker.
on_workers() {
  connection ssh "${SETTING[name]}" --worker=all "--command=$WHO$1"
}

# Prints the ids of the workers of the slice that `look` saw.
all_ids() { worker_ids "${SETTING[slices]}" "$WORKERS"; }

# Usage: all_workers STATE COMMAND. Runs it on all workers, shows what they
# print, and fails unless each answers with STATE.
all_workers() {
  local state=$1 output code=0 missing
  if is_dry; then
    on_workers "$2"
    return
  fi
  output=$(mktemp)
  on_workers "$2" | tee "$output" || code=$?
  missing=$(answers_of "$(all_ids)" <"$output" | workers_in "!$state")
  rm -f "$output"
  if [[ $missing ]]; then
    say "${SETTING[name]}: worker $missing did not answer '$state'"
  fi
  if [[ $missing ]] && ((code == 0)); then code=1; fi
  return "$code"
}

# Fails where the slice can't be reached; a dry run prints the command.
need_slice() {
  if is_dry; then
    print_look
    return
  fi
  look
  if [[ $STATE != READY ]]; then
    fail 1 "${SETTING[name]} in ${SETTING[zone]} is $STATE"
  fi
}

# Usage: script NAME ARGUMENT... Prints the command that runs a script of
# launch/worker.
script() {
  local name=$1
  shift
  command_line bash "$SOURCE/launch/worker/$name" "$@"
}

verb_setup() {
  need_slice
  set_up
}

set_up() {
  local folder parcel setup
  if is_dry; then folder=/tmp/kd-launch; else folder=$(mktemp -d); fi
  parcel=$folder/kd.tar.gz
  # The caller may have turned `set -e` off: each step returns on failure.
  run mkdir -p "$folder" || return
  run tar --create --gzip "--file=$parcel" "--directory=$ROOT" --exclude-vcs \
    '--exclude=./bazel-*' --exclude=__pycache__ --exclude=./.venv \
    --exclude=./venv . || return
  connection scp "$parcel" "${SETTING[name]}:kd.tar.gz" --worker=all || return
  run rm -rf "$folder"
  setup=$(command_line bash "$SOURCE.new/launch/worker/setup.sh" \
    "${SETTING[bucket]:-none}" "${SETTING[data_dir]:-none}")
  all_workers ready "rm -rf $SOURCE.new && mkdir -p $SOURCE.new && \
tar -xzf kd.tar.gz -C $SOURCE.new && $setup"
}

# Usage: start_run START. Starts the run on all workers. START identifies this
# attempt, so that stop_run can stop only its processes.
start_run() {
  all_workers started "$(script start.sh "$1" \
    "tpu:${SETTING[project]}/${SETTING[zone]}/${SETTING[name]}" \
    "${SETTING[takeover]}" "${LINE[@]}")"
}

# Usage: stop_run [START]. Stops all runs, or only the run of attempt START.
stop_run() {
  all_workers stopped "$(script stop.sh "${SETTING[grace_seconds]}" "$@")"
}

# Prints a new name of an attempt.
new_start() {
  if is_dry; then echo START; else od -An -N6 -tx1 /dev/urandom | tr -d ' \n'; fi
}

verb_run() {
  local start code=0
  check_line
  if [[ ${SETTING[bucket]} && $WORKDIR != /mnt/kd/* ]]; then
    say "warning: $WORKDIR is not in the bucket, which is at /mnt/kd:" \
      "it is gone with the slice"
  fi
  need_slice
  if ! is_dry; then save_line "${LINE[@]}"; fi
  start=$(new_start)
  start_run "$start" || code=$?
  if ((code == 0)); then return; fi
  say 'stopping the workers that have started'
  stop_run "$start" || say 'launch/tpu stop stops the others once they answer'
  fail $((code == 2 ? 2 : 1)) 'the run could not be started on every worker'
}

# Prints `kd-worker ID HOST STATE CODE` for each worker.
status_of_workers() {
  local file=$SOURCE/launch/worker/status.sh
  # A new slice does not have the script yet.
  on_workers "if [ -e $file ]; then bash $file; else \
echo \"kd-worker \$KD_WORKER \$(hostname) absent -\"; fi"
}

verb_status() {
  local output silent code=0
  need_slice
  if is_dry; then
    status_of_workers
    return
  fi
  output=$(mktemp)
  status_of_workers | tee "$output" || code=$?
  silent=$(answers_of "$(all_ids)" <"$output" | workers_in silent)
  rm -f "$output"
  if [[ $silent ]]; then
    fail 1 "${SETTING[name]}: worker $silent did not answer"
  fi
  return "$code"
}

# Usage: one_worker SLICE/WORKER|WORKER. Prints the slice's name and the worker.
one_worker() {
  local slice=0 worker=$1 names
  if [[ $1 == */* ]]; then slice=${1%/*} worker=${1#*/}; fi
  mapfile -t names < <(slice_names)
  if ((10#$slice >= ${#names[@]})); then
    fail 2 "worker: found $1; ${SETTING[name]} has ${#names[@]} slices"
  fi
  echo "${names[10#$slice]} $((10#$worker))"
}

verb_logs() {
  local where
  where=$(one_worker "${SETTING[worker]}")
  connection ssh "${where% *}" "--worker=${where#* }" \
    '--command=tail -n 200 -F kd/run/log'
}

verb_stop() {
  need_slice
  stop_run
}

verb_collect() {
  local folder where to=${SETTING[to]}
  load_line
  folder=$WORKDIR
  run mkdir -p "$to"
  if [[ ${SETTING[bucket]} && $folder == /mnt/kd/* ]]; then
    run gcloud storage rsync --recursive \
      "${SETTING[bucket]}/${folder#/mnt/kd/}" "$to" \
      "--project=${SETTING[project]}"
  else
    # The workdir is on the workers' disks; worker 0 has the whole run if it is the
    # only one.
    where=$(one_worker 0)
    connection scp --recurse --worker=0 "${where% *}:$folder/." "$to"
  fi
  collect_logs "$to/workers.log"
}

# Usage: collect_logs FILE. Writes one file, each line prefixed with its worker.
collect_logs() {
  local missing
  # shellcheck disable=SC2016 # The worker's shell expands it.
  local command='sed "s|^|[$KD_WORKER $(hostname)] |" kd/run/log && '\
'echo "kd-worker $KD_WORKER $(hostname) sent -"'
  if is_dry; then
    printf '%s > %s\n' "$(on_workers "$command")" "$(quoted "$1")"
    return
  fi
  look
  if [[ $STATE != READY ]]; then
    say "warning: ${SETTING[name]} is $STATE: there is no $1"
    return
  fi
  on_workers "$command" >"$1" || true
  missing=$(answers_of "$(all_ids)" <"$1" | workers_in '!sent')
  sed -i.bak '/^kd-worker /d' "$1" && rm -f "$1.bak"
  if [[ $missing ]]; then
    say "warning: $1 lacks the log of worker $missing"
  fi
}
