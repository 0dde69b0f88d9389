# shellcheck shell=bash
# Follows a run to its end. What kd.main's exit code says is done: 0, 2 and 3
# end the watch; 42 (preempted) starts the run again as often as it takes; any
# other code, and a worker that died, only as often as `failures` allows.

FAILURES=0
VERDICT=''
WORKERS=''
UNEVEN_SINCE=''
# When the run was started from here: long ago, where it was not.
BEGUN=-1000000

# Sets VERDICT, and WORKERS to what was said of each.
look_at_run() {
  local answer errors line
  local -a states=()
  WORKERS=''
  errors=$(mktemp)
  if ! answer=$(status_of_workers 2>"$errors"); then
    cat "$errors" >&2
    answer=''
  fi
  rm -f "$errors"
  while read -r line; do
    if [[ $line =~ ^kd-worker\ ([^ ]+)\ ([a-z]+)\ ([0-9]+|-)$ ]]; then
      states+=("${BASH_REMATCH[2]} ${BASH_REMATCH[3]}")
      WORKERS+=" ${BASH_REMATCH[1]}:${BASH_REMATCH[2]}:${BASH_REMATCH[3]}"
    fi
  done <<<"$(sort --version-sort <<<"$answer")"
  VERDICT=$(verdict_of "${states[@]}")
}

begin_run() {
  BEGUN=$SECONDS
  start_run
}

set_up_and_begin() { verb_setup && begin_run; }

# Usage: start_again begin_run|set_up_and_begin. Until the run is started on
# every worker. Where the slice had to be created for it, or a start failed, as on
# a machine that the cloud has replaced, it is set up.
start_again() {
  local how=$1
  while true; do
    CREATED=''
    ensure_ready
    if [[ $CREATED ]]; then how=set_up_and_begin; fi
    if "$how"; then return; fi
    # Some workers may run: the next start would be refused there.
    verb_stop || true
    count_failure 'the run could not be started'
    how=set_up_and_begin
  done
}

# Ends what still runs once it has had grace_seconds.
end_stragglers() {
  local grace=${SETTING[grace_seconds]}
  if [[ -z $UNEVEN_SINCE ]]; then UNEVEN_SINCE=$SECONDS; fi
  if ((SECONDS - UNEVEN_SINCE >= grace)); then
    say "some workers have ended and others run on: stopping these"
    verb_stop || true
    UNEVEN_SINCE=''
  fi
}

# Until the run is over, by VERDICT.
follow() {
  local unsure=0 most=${SETTING[failures]} soon=${SETTING[settle_seconds]}
  UNEVEN_SINCE=''
  while true; do
    CREATED=''
    ensure_ready
    if [[ $CREATED ]]; then start_again set_up_and_begin; fi
    look_at_run
    say "run: $VERDICT$WORKERS"
    if [[ $VERDICT != unsure ]]; then unsure=0; fi
    if [[ $VERDICT != uneven ]]; then UNEVEN_SINCE=''; fi
    case $VERDICT in
      done | config | nonfinite) return ;;
      preempted)
        # Without this, a run that can't begin would begin for ever.
        if ((SECONDS - BEGUN < soon)); then
          count_failure 'the run ended with 42 soon after its start'
        fi
        # The machine may be about to go: looked at again before the start.
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
          count_failure "the workers did not answer $unsure times"
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
  describe_command
  run "${COMMAND[@]}"
  note 'while it is READY, ask the workers'
  status_of_workers
  note 'exit codes: 0 done, 2 and 3 stop, 42 the last command of these again'
  note 'once it was preempted; TOKEN is made anew'
  delete_slice
  create_command TOKEN
  run "${COMMAND[@]}"
  verb_setup
  start_run
}
