# shellcheck shell=bash
# Settings: a table says what is legal, a file sets them, flags win over it.

declare -A SETTING=()
EXECUTE=''
LINE=()

# Usage: read_settings TABLE ARGUMENT... Fills SETTING, EXECUTE and LINE, the
# arguments of kd.main that follow `--`.
#
# A line of TABLE is name;default;legal;meaning, where legal is a regular
# expression of the whole value, and a default of ! means that it must be given.
read_settings() {
  local table=$1 name default argument
  shift
  while IFS=';' read -r name default _ _; do
    SETTING[$name]=${default#!}
  done <<<"$table"
  for argument in "$@"; do
    case $argument in
      --settings=*) _read_file "$table" "${argument#*=}" ;;
      --) break ;;
    esac
  done
  while (($#)); do
    case $1 in
      --settings=*) ;;
      --execute) EXECUTE=yes ;;
      --)
        shift
        LINE=("$@")
        break
        ;;
      --*=*)
        name=${1#--}
        name=${name%%=*}
        _set "$table" "${name//-/_}" "${1#*=}" "the flag --$name"
        ;;
      *) fail 2 "$1: not a flag; legal: --settings=FILE --execute" \
        "--SETTING=VALUE, and kd's own flags after --" ;;
    esac
    shift
  done
  _check "$table"
}

_read_file() {
  local table=$1 file=$2 line number=0
  [[ -r $file ]] || fail 2 "--settings=$file: no such file"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line#"${line%%[![:space:]]*}"}
    line=${line%"${line##*[![:space:]]}"}
    if [[ -z $line || $line == '#'* ]]; then continue; fi
    [[ $line == *=* ]] || fail 2 "$file:$number: not NAME=VALUE: $line"
    _set "$table" "${line%%=*}" "${line#*=}" "$file:$number"
  done <"$file"
}

_set() {
  local table=$1 name=$2 value=$3 place=$4
  if [[ -z $name || -z ${SETTING[$name]+known} ]]; then
    fail 2 "$place: no setting is called '$name'; legal:" \
      "$(cut -d';' -f1 <<<"$table" | tr '\n' ' ')"
  fi
  SETTING[$name]=$value
}

_check() {
  local name default legal meaning value
  while IFS=';' read -r name default legal meaning; do
    value=${SETTING[$name]}
    if [[ -z $value && $default == '!' ]]; then
      fail 2 "$name: not given; it is $meaning"
    fi
    if [[ -n $value && ! $value =~ ^($legal)$ ]]; then
      fail 2 "$name: found '$value'; it is $meaning"
    fi
  done <<<"$1"
}

# Usage: print_settings TABLE. For --help.
print_settings() {
  local name default meaning
  while IFS=';' read -r name default _ meaning; do
    case $default in
      '!') default='must be given' ;;
      '') default='not set' ;;
    esac
    printf '  %-17s %s (%s)\n' "$name" "$meaning" "$default"
  done <<<"$1"
}
