# shellcheck shell=bash
# The slice itself: created, looked at and deleted through gcloud.

STATE=''
OWNER=''
CREATED=''

is_queued() { [[ ${SETTING[capacity]} == queued* ]]; }

# Usage: gcloud_tpu GROUP VERB NAME... prints nothing, fills COMMAND.
gcloud_tpu() {
  COMMAND=(gcloud compute tpus "$@"
    "--project=${SETTING[project]}" "--zone=${SETTING[zone]}")
}

create_command() {
  local name=${SETTING[name]}
  local shared=("--accelerator-type=${SETTING[accelerator_type]}"
    "--labels=kd_launch=$1"
    # What lets the workers read and write the bucket.
    "--scopes=https://www.googleapis.com/auth/cloud-platform")
  local setting
  for setting in network subnetwork service_account; do
    if [[ -n ${SETTING[$setting]} ]]; then
      shared+=("--${setting//_/-}=${SETTING[$setting]}")
    fi
  done
  case ${SETTING[capacity]} in spot | queued-spot) shared+=(--spot) ;; esac
  if is_queued; then
    gcloud_tpu queued-resources create "$name" "--node-id=$name" \
      "--runtime-version=${SETTING[runtime_version]}" --async "${shared[@]}"
  else
    gcloud_tpu tpu-vm create "$name" \
      "--version=${SETTING[runtime_version]}" "${shared[@]}"
  fi
}

delete_command() {
  if is_queued; then
    # --force: with the slice that it holds.
    gcloud_tpu queued-resources delete "${SETTING[name]}" --force --quiet
  else
    gcloud_tpu tpu-vm delete "${SETTING[name]}" --quiet
  fi
}

describe_slice_command() {
  gcloud_tpu tpu-vm describe "${SETTING[name]}" \
    '--format=value(state,labels.kd_launch)'
}

describe_command() {
  if is_queued; then
    gcloud_tpu queued-resources describe "${SETTING[name]}" \
      '--format=value(state.state,tpu.nodeSpec[0].node.labels.kd_launch)'
  else
    describe_slice_command
  fi
}

# Fills STATE and OWNER, the label kd_launch, from COMMAND.
_ask() {
  local errors answer
  errors=$(mktemp)
  if answer=$("${COMMAND[@]}" 2>"$errors"); then
    STATE=${answer%%$'\t'*} OWNER=''
    if [[ $answer == *$'\t'* ]]; then OWNER=${answer#*$'\t'}; fi
    STATE=${STATE:-EMPTY}
  elif grep -q 'NOT_FOUND\|was not found' "$errors"; then
    STATE=ABSENT OWNER=''
  else
    STATE=ERROR OWNER=''
    cat "$errors" >&2
  fi
  rm -f "$errors"
}

# Fills STATE and OWNER. A queued resource can be ACTIVE after its slice was
# taken away, so the slice is asked too.
look() {
  local owner
  describe_command
  _ask
  if [[ $STATE == ACTIVE ]]; then
    owner=$OWNER
    describe_slice_command
    _ask
    OWNER=$owner
    # The request is still there, so creating it again would fail.
    if [[ $STATE == ABSENT ]]; then STATE=GONE; fi
  fi
}

# Fails unless what is there was created by this machine's record.
check_owner() {
  if [[ $STATE == ABSENT || ($OWNER && $OWNER == "$(token)") ]]; then return; fi
  delete_command
  fail 1 "${SETTING[name]} in ${SETTING[zone]} is $STATE and was not created" \
    "here (kd_launch='$OWNER'): it is left alone. To delete it yourself:" \
    "$(command_line "${COMMAND[@]}")"
}

create_once() {
  new_token
  create_command "$(token)"
  if run "${COMMAND[@]}"; then CREATED=yes; else return 1; fi
}

delete_slice() {
  delete_command
  run "${COMMAND[@]}"
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

# Until the slice is READY. Sets CREATED where it had to be created.
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
      recreate) delete_slice || count_failure 'it could not be deleted' ;;
      failed)
        delete_slice || true
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
    # After a creation or deletion the answer is worth asking for at once.
    case $action in wait | unsure) pause "${SETTING[poll_seconds]}" ;; esac
  done
}

say_how_to_delete() {
  if [[ -z $(token) ]]; then return; fi
  delete_command
  say "${SETTING[name]} is kept; where it exists, it costs money. To delete it:"
  printf '%s\n' "$(command_line "${COMMAND[@]}")" >&2
}

interrupted() {
  end_pause
  say interrupted
  say_how_to_delete
  exit 130
}

# From here on Ctrl-C says what is left behind.
guard_interrupt() {
  trap 'trap "" INT TERM; interrupted' INT TERM
}

verb_create() {
  if is_dry; then
    describe_command
    run "${COMMAND[@]}"
    note 'if there is nothing of this name; TOKEN is made anew'
    create_command TOKEN
    run "${COMMAND[@]}"
    note "and describe every ${SETTING[poll_seconds]} s until it is READY"
    return
  fi
  FAILURES=0
  one_at_a_time
  guard_interrupt
  ensure_ready
  say "ready: launch/tpu setup is next"
}

verb_delete() {
  if is_dry; then
    describe_command
    run "${COMMAND[@]}"
    note 'if its label kd_launch is the one remembered here'
    delete_slice
    return
  fi
  one_at_a_time
  look
  case $STATE in
    ERROR | EMPTY) fail 1 "what ${SETTING[name]} is could not be asked" ;;
    ABSENT) say "there is no ${SETTING[name]} in ${SETTING[zone]}" ;;
    *)
      check_owner
      delete_slice || fail 1 "${SETTING[name]} may still be there"
      ;;
  esac
  forget_token
}
