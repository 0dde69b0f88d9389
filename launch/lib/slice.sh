# shellcheck shell=bash
# Creates, describes and deletes the slice (or the slices of a multislice run)
# through gcloud. The first argument of functions that build a command is applied
# to it: `run`, `command_line` (prints it) or `described`.

# Results of the last call of `look`: the state, the label kd_launch, and the
# number of workers per slice (known once they are READY).
STATE='' OWNER='' WORKERS=0
# Whether ensure_ready had to create the slice.
CREATED=''
# Number of failures so far, of creations and of the run.
FAILURES=0

# Whether the request waits in a queue until there is capacity.
is_queued() {
  case ${SETTING[capacity]} in queued* | flex-start) true ;; *) false ;; esac
}

is_multislice() { [[ ${SETTING[slices]} != 1 ]]; }

# Refuses settings that contradict each other.
check_slice_settings() {
  local capacity=${SETTING[capacity]}
  if is_multislice && ! is_queued; then
    fail 2 "slices: found ${SETTING[slices]} with capacity=$capacity; several" \
      "slices are one queued request: give capacity=queued, queued-spot," \
      "queued-reserved or flex-start"
  fi
  if [[ ${SETTING[reservation]} && $capacity != *reserved ]]; then
    fail 2 "reservation: found '${SETTING[reservation]}' with capacity=$capacity;" \
      "give capacity=reserved or queued-reserved"
  fi
  if [[ ${SETTING[internal_ips]} == yes && ${SETTING[connect]} == external ]]; then
    fail 2 "connect: found external with internal_ips=yes; give connect=iap," \
      "or connect=internal on a machine of the same network"
  fi
}

# Usage: gcloud_tpus DO TRACK ARGUMENT... TRACK is '' or alpha.
gcloud_tpus() {
  local do=$1 track=$2
  shift 2
  "$do" gcloud ${track:+"$track"} compute tpus "$@" \
    "--project=${SETTING[project]}" "--zone=${SETTING[zone]}"
}

# Prints the name of each slice.
slice_names() {
  local i name=${SETTING[name]} slices=${SETTING[slices]}
  if is_multislice; then
    # The Cloud TPU API derives these names from the prefix.
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  else
    echo "$name"
  fi
}

# Usage: creation_flags. Prints the flags that both kinds of request share, one
# per line.
creation_flags() {
  local setting hours=${SETTING[max_run_hours]}
  for setting in network subnetwork service_account; do
    if [[ ${SETTING[$setting]} ]]; then
      echo "--${setting//_/-}=${SETTING[$setting]}"
    fi
  done
  if [[ ${SETTING[internal_ips]} == yes ]]; then echo --internal-ips; fi
  case ${SETTING[capacity]} in
    spot | queued-spot) echo --spot ;;
    reserved | queued-reserved)
      if [[ ${SETTING[reservation]} ]]; then
        echo "--reservation=${SETTING[reservation]}"
      else
        echo --reserved
      fi
      ;;
    flex-start)
      echo --provisioning-model=flex-start
      echo "--max-run-duration=$((hours * 3600))s"
      ;;
  esac
  setting_list create_flag
}

# Usage: create_slice DO TOKEN
create_slice() {
  local do=$1 name=${SETTING[name]} track='' flags
  # These two exist only in the alpha track.
  if [[ ${SETTING[reservation]} || ${SETTING[capacity]} == flex-start ]]; then
    track=alpha
  fi
  mapfile -t flags < <(creation_flags)
  flags=("--accelerator-type=${SETTING[accelerator_type]}"
    "--labels=kd_launch=$2"
    # Lets the workers read and write the bucket.
    "--scopes=https://www.googleapis.com/auth/cloud-platform" "${flags[@]}")
  if ! is_queued; then
    gcloud_tpus "$do" "$track" tpu-vm create "$name" \
      "--version=${SETTING[runtime_version]}" "${flags[@]}"
    return
  fi
  if is_multislice; then
    flags=("--node-count=${SETTING[slices]}" "--node-prefix=$name" "${flags[@]}")
  else
    flags=("--node-id=$name" "${flags[@]}")
  fi
  gcloud_tpus "$do" "$track" queued-resources create "$name" \
    "--runtime-version=${SETTING[runtime_version]}" --async "${flags[@]}"
}

# Usage: delete_slice DO
delete_slice() {
  if is_queued; then
    # --force also deletes the slices of the request.
    gcloud_tpus "$1" '' queued-resources delete "${SETTING[name]}" --force --quiet
  else
    gcloud_tpus "$1" '' tpu-vm delete "${SETTING[name]}" --quiet
  fi
}

# Usage: describe_slice DO NAME. gcloud's --worker=all reaches the same
# endpoints.
describe_slice() {
  gcloud_tpus "$1" '' tpu-vm describe "$2" \
    '--format=value(state,labels.kd_launch,networkEndpoints.len())'
}

# Usage: describe_request DO
describe_request() {
  gcloud_tpus "$1" '' queued-resources describe "${SETTING[name]}" \
    '--format=value(state.state,tpu.nodeSpec[0].node.labels.kd_launch)'
}

# Sets STATE, OWNER and WORKERS. A queued request can be ACTIVE after its slices
# were taken away, so each slice is described too.
look() {
  local name names count owner=''
  WORKERS=0
  if is_queued; then
    IFS=';' read -r STATE OWNER _ < <(describe_request described)
    if [[ $STATE != ACTIVE ]]; then return; fi
    owner=$OWNER
  fi
  mapfile -t names < <(slice_names)
  for name in "${names[@]}"; do
    IFS=';' read -r STATE OWNER count < <(describe_slice described "$name")
    if is_queued; then
      OWNER=$owner
      # The request is still there, so creating it again would fail.
      if [[ $STATE == ABSENT ]]; then STATE=GONE; fi
    fi
    if [[ $STATE != READY ]]; then return; fi
    # Without the number of workers, a silent one would not be noticed.
    if [[ ! $count =~ ^[1-9][0-9]*$ ]]; then
      STATE=EMPTY
      return
    fi
    WORKERS=$count
  done
}

# The dry run of `look`.
print_look() {
  local name
  if is_queued; then describe_request run; fi
  for name in $(slice_names); do describe_slice run "$name"; done
}

# Fails if there is a slice that is not in this machine's record.
check_owner() {
  if [[ $STATE == ABSENT ]]; then return; fi
  check_mine "${SETTING[name]} in ${SETTING[zone]} is $STATE and" "$OWNER" \
    delete_slice command_line
}

create_once() {
  new_token
  create_slice run "$(token)" || return
  CREATED=yes
}

# Counts a failure in FAILURES, waits, or gives up.
count_failure() {
  local most=${SETTING[failures]}
  FAILURES=$((FAILURES + 1))
  if ((FAILURES > most)); then
    say_how_to_delete
    fail 1 "$1: given up after $FAILURES failures"
  fi
  say "$1: failure $FAILURES, trying again"
  back_off "$FAILURES"
}

# Returns once the slice is READY. Sets CREATED if it had to be created.
ensure_ready() {
  local action unsure=0 most=${SETTING[failures]}
  local begin=$SECONDS limit=${SETTING[wait_seconds]}
  while true; do
    look
    action=$(action_of "$STATE" "${SETTING[capacity]}")
    if [[ $action != unsure ]]; then unsure=0; fi
    if [[ $action != absent && $action != unsure ]]; then check_owner; fi
    if [[ $action == ready ]]; then return; fi
    say "${SETTING[name]}: $STATE: $action"
    case $action in
      wait) ;;
      absent) create_once || count_failure 'the slice could not be created' ;;
      recreate) delete_slice run || count_failure 'it could not be deleted' ;;
      failed)
        delete_slice run || true
        count_failure 'the request for the slice failed'
        ;;
      stop)
        say_how_to_delete
        fail 1 "${SETTING[name]} is $STATE: someone has to look at it"
        ;;
      unsure)
        unsure=$((unsure + 1))
        if ((unsure > most)); then
          say_how_to_delete
          fail 1 "${SETTING[name]} is $STATE, asked $unsure times: given up"
        fi
        ;;
    esac
    if ((limit && SECONDS - begin > limit)); then
      say_how_to_delete
      fail 1 "no slice within $limit seconds"
    fi
    # After a creation or deletion, look again at once.
    case $action in wait | unsure) pause "${SETTING[poll_seconds]}" ;; esac
  done
}

say_how_to_delete() {
  if [[ -z $(token) ]]; then return; fi
  say "${SETTING[name]} is kept; where it exists, it costs money. To delete it:"
  printf '%s\n' "$(delete_slice command_line)" >&2
}

interrupted() {
  end_pause
  say interrupted
  say_how_to_delete
  exit 130
}

# From here on, Ctrl-C reports the resources that still exist.
guard_interrupt() {
  trap 'trap "" INT TERM; interrupted' INT TERM
}

verb_create() {
  if is_dry; then
    print_look
    note 'if there is nothing of this name; TOKEN is made anew'
    create_slice run TOKEN
    note "and describe every ${SETTING[poll_seconds]} s until it is READY"
    return
  fi
  one_at_a_time
  guard_interrupt
  ensure_ready
  say "ready, with the workers $(all_ids): launch/tpu setup is next"
}

verb_delete() {
  if is_dry; then
    print_look
    note 'if its label kd_launch is the one remembered here'
    delete_slice run
    return
  fi
  one_at_a_time
  look
  case $STATE in
    ERROR) fail 1 "what ${SETTING[name]} is could not be asked" ;;
    ABSENT) say "there is no ${SETTING[name]} in ${SETTING[zone]}" ;;
    *)
      check_owner
      delete_slice run || fail 1 "${SETTING[name]} may still be there"
      ;;
  esac
  forget_token
}
