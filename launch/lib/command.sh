# shellcheck shell=bash
# Saying, failing, and running a command that was printed first.

say() { printf 'launch: %s\n' "$*" >&2; }

# Usage: fail CODE TEXT. 1: the cloud or a machine, 2: what the user wrote.
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

# A dry run prints the command to standard output, where it is part of a script
# that does the same; --execute prints it to standard error and runs it.
run() {
  if is_dry; then
    command_line "$@"
    return 0
  fi
  printf '+ %s\n' "$(command_line "$@")" >&2
  "$@"
}

is_dry() { [[ -z $EXECUTE ]]; }

# What a dry run says between its commands.
note() {
  if is_dry; then printf '# %s\n' "$*"; fi
}

# Waits; a signal is heard at once, which it is not while a program runs. The
# program does not hear Ctrl-C, as bash starts it in the background.
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

# Usage: back_off N. Waits before try N, counted from 1: each time twice as long,
# a quarter of an hour at most.
back_off() {
  local first=${SETTING[backoff_seconds]} seconds
  seconds=$((first << ($1 > 10 ? 9 : $1 - 1)))
  pause $((seconds > 900 ? 900 : seconds))
}
