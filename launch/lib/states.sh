# shellcheck shell=bash
# What a state that the cloud reports means for who waits on it.

# Usage: action_of STATE CAPACITY. Prints one of
#   ready     the slice can be used
#   wait      it will change by itself
#   absent    there is nothing: create it
#   recreate  it will not come back: delete it and create it again
#   failed    as recreate, and counts as a failure
#   stop      a person has to look
#   unsure    not an answer that is understood: ask again, but not for ever
# The states are those of a TPU VM and of a queued resource, and four of our own:
# ABSENT (the cloud knows no such name), GONE (it knows the queued resource, but
# no slice), EMPTY (it said nothing), ERROR (it could not be asked).
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
      # Spot capacity that is stopped was taken away; elsewhere a person did it.
      case $2 in
        spot | queued-spot) echo recreate ;;
        *) echo stop ;;
      esac
      ;;
    HIDING | HIDDEN | UNHIDING) echo stop ;;
    *) echo unsure ;;
  esac
}

# Usage: verdict_of 'STATE CODE'... One argument for each worker: `running -`,
# `ended CODE`, `lost -` (it died without a code) or `absent -` (nothing was
# started). Prints one of
#   running | absent | done | config | nonfinite | preempted | failed
# or uneven: some have failed and others still run; or unsure: no worker spoke.
verdict_of() {
  local state code worker
  local running=0 absent=0 good=0 config=0 nonfinite=0 preempted=0 failed=0
  for worker in "$@"; do
    read -r state code <<<"$worker"
    case $state in
      running) running=$((running + 1)) ;;
      absent) absent=$((absent + 1)) ;;
      ended)
        case $code in
          0) good=$((good + 1)) ;;
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
  if (($# == 0)); then
    echo unsure
  elif ((running)); then
    if ((bad + absent)); then echo uneven; else echo running; fi
  # Where one worker fails the others end with 42: the reason is the other code.
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
