# shellcheck shell=bash
# Messages, failures, and commands that are printed before they run.

say() { printf 'launch: %s\n' "$*" >&2; }

# Usage: fail CODE TEXT. CODE is 1 if the cloud or a machine failed, 2 if the
# user's input is wrong.
fail() {
  local code=$1
  shift
  printf 'launch: error: %s\n' "$*" >&2
  exit "$code"
}

# Prints one argument so that a shell reads the same argument back.
quoted() {
  if [[ $1 =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
    printf '%s' "$1"
  else
    printf '%s' "${1@Q}"
  fi
}

# Prints arguments as one line of a shell.
command_line() {
  local argument separator=''
  for argument in "$@"; do
    printf '%s' "$separator"
    quoted "$argument"
    separator=' '
  done
  printf '\n'
}

# A dry run prints the command to standard output, so that the output is a
# script. --execute prints it to standard error and runs it.
run() {
  if is_dry; then
    command_line "$@"
    return 0
  fi
  printf '+ %s\n' "$(command_line "$@")" >&2
  "$@"
}

# Usage: described COMMAND... Runs a `gcloud ... describe` and prints the values
# of its --format, separated by semicolons. Prints ABSENT;; if nothing has this
# name and ERROR;; if gcloud failed otherwise. An empty first value is replaced by
# EMPTY.
described() {
  local errors answer
  errors=$(mktemp)
  if answer=$("$@" 2>"$errors"); then
    # read would merge consecutive tabs.
    answer=${answer//$'\t'/;}
    if [[ -z ${answer%%;*} ]]; then answer="EMPTY$answer"; fi
  elif grep -q 'NOT_FOUND\|was not found' "$errors"; then
    answer='ABSENT;;'
  else
    answer='ERROR;;'
    cat "$errors" >&2
  fi
  rm -f "$errors"
  echo "$answer"
}

is_dry() { [[ -z $EXECUTE ]]; }

# Prints a comment between the commands of a dry run.
note() {
  if is_dry; then printf '# %s\n' "$*"; fi
}

# Usage: pause SECONDS. sleep runs in the background, where it ignores Ctrl-C: a
# trap would not run before a program in the foreground ends.
PAUSE=''
pause() {
  sleep "$1" >/dev/null 2>&1 8>&- &
  PAUSE=$!
  wait "$PAUSE"
  PAUSE=''
}

end_pause() {
  if [[ $PAUSE ]]; then
    kill "$PAUSE" 2>/dev/null || true
    wait "$PAUSE" || true
  fi
}

# Usage: back_off N. Waits before try N, counted from 1: each wait is twice as
# long as the previous one, up to 15 minutes.
back_off() {
  local first=${SETTING[backoff_seconds]} seconds
  seconds=$((first << ($1 > 10 ? 9 : $1 - 1)))
  pause $((seconds > 900 ? 900 : seconds))
}
