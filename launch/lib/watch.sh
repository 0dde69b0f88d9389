# shellcheck shell=bash
# Follows a run to its end. After exit code 0, 2 or 3 of kd the watch ends. After
# 42 (preempted) the run starts again, without a limit. After any other code, or
# if a worker died, it starts again at most `failures` times.

VERDICT=''
# `ID STATE CODE` of each worker, one per line.
ANSWERS=''
UNEVEN_SINCE=''
# When this watch started the run; long ago if it did not.
BEGUN=-1000000

# Sets VERDICT and ANSWERS. If gcloud fails for one worker, the answers of the
# others still count.
look_at_run() {
  local output errors
  errors=$(mktemp)
  if ! output=$(status_of_workers 2>"$errors"); then cat "$errors" >&2; fi
  rm -f "$errors"
  ANSWERS=$(answers_of "$(all_ids)" <<<"$output")
  VERDICT=$(verdict_of <<<"$ANSWERS")
}

# Prints ANSWERS on one line: ID:STATE:CODE, without the code if there is none.
answers_in_short() {
  local id state code
  while read -r id state code; do
    printf ' %s:%s' "$id" "$state"
    if [[ $code != - ]]; then printf ':%s' "$code"; fi
  done <<<"$ANSWERS"
}

begin_run() {
  BEGUN=$SECONDS
  start_run "$(new_start)"
}

set_up_and_begin() { set_up && begin_run; }

# Usage: start_again begin_run|set_up_and_begin. Returns once the run is started
# on every worker. The workers are set up if the slice had to be created, or if a
# start failed, as on a machine that the cloud has replaced.
start_again() {
  local how=$1 code
  while true; do
    CREATED=''
    ensure_ready
    if [[ $CREATED ]]; then how=set_up_and_begin; fi
    code=0
    "$how" || code=$?
    if ((code == 0)); then return; fi
    # On workers that run, the next start would be refused.
    stop_run || true
    if ((code == 2)); then
      say_how_to_delete
      fail 2 'the run can not be started like this: see above'
    fi
    count_failure 'the run could not be started'
    how=set_up_and_begin
  done
}

# Ends the workers that still run after grace_seconds.
end_stragglers() {
  local grace=${SETTING[grace_seconds]}
  if [[ -z $UNEVEN_SINCE ]]; then UNEVEN_SINCE=$SECONDS; fi
  if ((SECONDS - UNEVEN_SINCE >= grace)); then
    say "some workers have ended and others run on: stopping these"
    stop_run || true
    UNEVEN_SINCE=''
  fi
}

# Returns when the run is over, and sets VERDICT.
follow() {
  local unsure=0 most=${SETTING[failures]} soon=${SETTING[settle_seconds]}
  UNEVEN_SINCE=''
  while true; do
    CREATED=''
    ensure_ready
    if [[ $CREATED ]]; then start_again set_up_and_begin; fi
    look_at_run
    say "run: $VERDICT$(answers_in_short)"
    if [[ $VERDICT != unsure ]]; then unsure=0; fi
    if [[ $VERDICT != uneven ]]; then UNEVEN_SINCE=''; fi
    case $VERDICT in
      done | config | nonfinite) return ;;
      preempted)
        # Without this, a run that can't start would be started forever.
        if ((SECONDS - BEGUN < soon)); then
          count_failure 'the run ended with 42 soon after its start'
        fi
        # The machine may be about to disappear: its state is checked again before
        # the start.
        pause "${SETTING[poll_seconds]}"
        start_again begin_run
        ;;
      failed)
        count_failure 'the run failed'
        start_again begin_run
        ;;
      absent) start_again set_up_and_begin ;;
      uneven) end_stragglers ;;
      unsure)
        unsure=$((unsure + 1))
        if ((unsure > most)); then
          count_failure "worker $(workers_in silent <<<"$ANSWERS") of\
 ${SETTING[name]} did not answer $unsure times"
          unsure=0
        fi
        ;;
    esac
    pause "${SETTING[poll_seconds]}"
  done
}

verb_watch() {
  load_line
  if is_dry; then
    plan_watch
    return
  fi
  if [[ -z $(token) ]]; then
    fail 1 "${SETTING[name]} was not created here, so it could not be" \
      "created again: watch it where it was created"
  fi
  one_at_a_time
  save_line "${LINE[@]}"
  guard_interrupt
  follow
  say_how_to_delete
  case $VERDICT in
    config)
      say 'the config, a flag or a file is wrong: see launch/tpu logs'
      exit 2
      ;;
    nonfinite)
      say 'a loss or gradient was not finite: see launch/tpu logs'
      exit 3
      ;;
  esac
}

plan_watch() {
  print_look
  note 'while it is READY, ask the workers'
  status_of_workers
  note 'exit codes: 0 done, 2 and 3 stop, 42 the last command of these again'
  note 'once it was preempted; TOKEN is made anew'
  delete_slice run
  create_slice run TOKEN
  set_up
  start_run "$(new_start)"
}
