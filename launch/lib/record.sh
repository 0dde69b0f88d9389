# shellcheck shell=bash
# Records on this machine of the resources that it created: a token, which is also
# the resource's label kd_launch, and the run's command line. Only resources whose
# label equals the recorded token are ever deleted.

RECORD=''
WORKDIR=''

# Usage: open_record PART... The parts make up the resource's full name.
open_record() {
  local part
  RECORD="${XDG_STATE_HOME:-$HOME/.local/state}/kd-launch"
  for part in "$@"; do RECORD+="/$part"; done
}

# Only one process at a time may change the slice: two that create it after a
# preemption would overwrite each other's token.
one_at_a_time() {
  if ! command -v flock >/dev/null; then return; fi
  mkdir -p "$RECORD"
  exec 8>"$RECORD/lock"
  if ! flock --nonblock 8; then
    fail 1 "another launch/tpu create, watch or delete of ${SETTING[name]} is" \
      "running on this machine: end it first"
  fi
}

new_token() {
  mkdir -p "$RECORD"
  od -An -N6 -tx1 /dev/urandom | tr -d ' \n' >"$RECORD/token"
}

# Prints the recorded token, or nothing if there is none.
token() {
  if [[ -r $RECORD/token ]]; then cat "$RECORD/token"; fi
}

# Usage: check_mine WHAT OWNER COMMAND... Fails unless OWNER, the label of a
# resource, is the recorded token. COMMAND prints how to delete it by hand.
check_mine() {
  local what=$1 owner=$2
  shift 2
  if [[ $owner && $owner == "$(token)" ]]; then return; fi
  fail 1 "$what was not created here (kd_launch='$owner'): it is left alone." \
    "To delete it yourself: $("$@")"
}

forget_token() { rm -f "$RECORD/token"; }

# Each argument in the file is followed by a zero byte.
save_line() {
  mkdir -p "$RECORD"
  printf '%s\0' "$@" >"$RECORD/line.new"
  mv "$RECORD/line.new" "$RECORD/line"
}

# Reads LINE from the record if the user gave none.
load_line() {
  if ((${#LINE[@]} == 0)) && [[ -r $RECORD/line ]]; then
    mapfile -d '' -t LINE <"$RECORD/line"
  fi
  check_line
}

# Sets WORKDIR from LINE, and fails if the line is not valid.
check_line() {
  local argument
  if ((${#LINE[@]} == 0)); then
    fail 2 "kd's flags are missing: give them after --, as in" \
      "-- --config=configs/quickstart.py --workdir=/mnt/kd/runs/quickstart"
  fi
  WORKDIR=''
  for argument in "${LINE[@]}"; do
    case $argument in
      --workdir=gs://*)
        fail 2 "$argument: kd writes to folders: give the setting" \
          "bucket=gs://NAME, and a --workdir below /mnt/kd, where it is mounted"
        ;;
      --workdir=*) WORKDIR=${argument#*=} ;;
    esac
  done
  if [[ -z $WORKDIR ]]; then
    fail 2 "the line has no --workdir=FOLDER: $(command_line "${LINE[@]}")"
  fi
}
