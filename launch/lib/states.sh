# shellcheck shell=bash
# Pure functions that interpret the states reported by the cloud and by workers.

# Usage: action_of STATE CAPACITY. Prints one of
#   ready     the slice can be used
#   wait      the state is temporary
#   absent    it does not exist: create it
#   recreate  it will not recover: delete it and create it again
#   failed    as recreate, and counts as a failure
#   stop      a person has to look at it
#   unsure    the state is unknown: ask again, a limited number of times
# The states are those of a TPU VM and of a queued resource, and four of our
# own: ABSENT (nothing has this name), GONE (the queued resource exists, but a
# slice does not), EMPTY (the answer lacks the state or the number of workers),
# ERROR (the request failed).
action_of() {
  case $1 in
    READY | ACTIVE) echo ready ;;
    CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING) echo wait ;;
    ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING) echo wait ;;
    DELETING | SUSPENDING | STOPPING) echo wait ;;
    ABSENT) echo absent ;;
    PREEMPTED | TERMINATED | SUSPENDED | GONE) echo recreate ;;
    FAILED) echo failed ;;
    STOPPED)
      # A preemption stops spot capacity; a person stopped any other slice.
      case $2 in
        spot | queued-spot) echo recreate ;;
        *) echo stop ;;
      esac
      ;;
    HIDING | HIDDEN | UNHIDING) echo stop ;;
    *) echo unsure ;;
  esac
}

# Usage: worker_ids SLICES WORKERS. Prints the ids of all workers, as `0 1` for
# one slice of two workers and `0/0 0/1 1/0 1/1` for two such slices.
worker_ids() {
  local slice worker separator=''
  for ((slice = 0; slice < $1; slice++)); do
    for ((worker = 0; worker < $2; worker++)); do
      printf '%s' "$separator"
      if (($1 > 1)); then printf '%s/' "$slice"; fi
      printf '%s' "$worker"
      separator=' '
    done
  done
  echo
}

# Usage: answers_of 'ID...' <OUTPUT. The workers' output contains lines
# `kd-worker ID HOST STATE CODE` among others. Prints `ID STATE CODE` for each of
# the ids, in this order; `ID silent -` for a worker without such a line.
answers_of() {
  local id line
  local -A answers=()
  while IFS= read -r line; do
    if [[ $line =~ ^kd-worker\ ([0-9/]+)\ [^\ ]+\ ([a-z]+)\ ([0-9]+|-)$ ]]; then
      answers[${BASH_REMATCH[1]}]="${BASH_REMATCH[2]} ${BASH_REMATCH[3]}"
    fi
  done
  for id in $1; do
    printf '%s %s\n' "$id" "${answers[$id]:-silent -}"
  done
}

# Usage: workers_in STATE <ANSWERS. Prints the ids of the workers in this state
# for a message: `2`, or `1, 2`. !STATE selects workers in any other state.
workers_in() {
  local id state separator=''
  while read -r id state _; do
    if [[ $1 == "$state" || ($1 == !* && $1 != "!$state") ]]; then
      printf '%s%s' "$separator" "$id"
      separator=', '
    fi
  done
}

# Usage: verdict_of <ANSWERS. An answer is `ID running -`, `ID ended CODE`, `ID
# lost -` (it died without a code), `ID absent -` (nothing was started) or `ID
# silent -` (the worker did not answer). Prints one of
#   running | absent | done | config | nonfinite | preempted | failed
# or uneven: some have failed and others still run; or unsure: a worker is
# silent, and the others' answers are not enough.
verdict_of() {
  local state code workers=0
  local running=0 absent=0 silent=0 config=0 nonfinite=0 preempted=0 failed=0
  while read -r _ state code; do
    workers=$((workers + 1))
    case $state in
      running) running=$((running + 1)) ;;
      absent) absent=$((absent + 1)) ;;
      silent) silent=$((silent + 1)) ;;
      ended)
        case $code in
          0) ;;
          2) config=$((config + 1)) ;;
          3) nonfinite=$((nonfinite + 1)) ;;
          42) preempted=$((preempted + 1)) ;;
          *) failed=$((failed + 1)) ;;
        esac
        ;;
      *) failed=$((failed + 1)) ;;
    esac
  done
  local bad=$((config + nonfinite + preempted + failed))
  if ((workers == 0 || silent)); then
    echo unsure
  elif ((running)); then
    if ((bad + absent)); then echo uneven; else echo running; fi
  # If one worker fails, the others end with 42: the other code is the reason.
  elif ((config)); then
    echo config
  elif ((nonfinite)); then
    echo nonfinite
  elif ((failed)); then
    echo failed
  elif ((preempted)); then
    echo preempted
  elif ((absent)); then
    echo absent
  else
    echo 'done'
  fi
}
