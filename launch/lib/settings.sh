# shellcheck shell=bash
# Settings: a table defines them, a file sets them, flags override the file.

declare -A SETTING=()
EXECUTE=''
LINE=()

# Usage: read_settings TABLE ARGUMENT... Fills SETTING, EXECUTE and LINE, the
# arguments of kd that follow `--`.
#
# A line of TABLE is name;default;legal;meaning. A default of ! means that the
# setting must be given, * that it may be given several times (setting_list
# reads it). `legal` is a regular expression for the whole value, or
# int:LOW:HIGH.
read_settings() {
  local table=$1 name default argument
  shift
  while IFS=';' read -r name default _ _; do
    SETTING[$name]=${default#[*!]}
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

# Usage: setting_list NAME. Prints each value of a setting that may be repeated.
setting_list() {
  if [[ ${SETTING[$1]} ]]; then printf '%s\n' "${SETTING[$1]}"; fi
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
  if [[ $'\n'$table == *$'\n'"$name;*;"* && ${SETTING[$name]} ]]; then
    value=${SETTING[$name]}$'\n'$value
  fi
  SETTING[$name]=$value
}

_check() {
  local name default legal meaning value
  while IFS=';' read -r name default legal meaning; do
    value=${SETTING[$name]}
    if [[ -z $value ]]; then
      case $default in
        '' | '*') continue ;;
        '!') fail 2 "$name: not given; it is $meaning" ;;
      esac
    fi
    if [[ $legal == int:* ]]; then
      SETTING[$name]=$(integer "$value" "${legal#int:}") ||
        fail 2 "$name: found '$value'; it is $meaning; legal:" \
          "an integer from ${legal//[!0-9]/ }"
    else
      _matches "$value" "$legal" "$default" ||
        fail 2 "$name: found '$value'; it is $meaning"
    fi
  done <<<"$1"
}

# Usage: integer TEXT LOW:HIGH. Prints a decimal integer without leading zeros
# (which bash and YAML would read as octal), or fails.
integer() {
  local LC_ALL=C low=${2%:*} high=${2#*:} value
  [[ $1 =~ ^[0-9]{1,9}$ ]] || return 1
  value=$((10#$1))
  ((low <= value && value <= high)) || return 1
  printf '%s' "$value"
}

_matches() {
  local LC_ALL=C value=$1 legal=$2 line
  if [[ $3 != '*' ]]; then
    [[ $value =~ ^($legal)$ ]]
    return
  fi
  while IFS= read -r line; do
    [[ $line =~ ^($legal)$ ]] || return 1
  done <<<"$value"
}

# Usage: print_settings TABLE. For --help.
print_settings() {
  local name default meaning
  while IFS=';' read -r name default _ meaning; do
    case $default in
      '!') default='must be given' ;;
      '') default='not set' ;;
      '*') default='may be repeated' ;;
    esac
    printf '  %-17s %s (%s)\n' "$name" "$meaning" "$default"
  done <<<"$1"
}
