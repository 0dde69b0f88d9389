# shellcheck shell=bash
# The JobSet: rendered from the template, applied and deleted through kubectl.

kubectl_in() {
  COMMAND=(kubectl "--context=${SETTING[context]}"
    "--namespace=${SETTING[namespace]}" "$@")
}

# Prints a string as JSON, which YAML reads too.
json_string() {
  local text=$1
  if [[ $text == *[[:cntrl:]]* ]]; then
    fail 2 "a control character in $(quoted "$text")"
  fi
  text=${text//\\/\\\\}
  # Kubernetes replaces $(NAME) in a container's arguments, and $$ stays $.
  text=${text//\$\(/\$\$\(}
  printf '"%s"' "${text//\"/\\\"}"
}

json_list() {
  local argument separator='['
  for argument in "$@"; do
    printf '%s' "$separator"
    json_string "$argument"
    separator=', '
  done
  printf ']'
}

# Chips of the topology by chips of a host.
hosts() {
  local side chips=1 per=${SETTING[chips_per_host]}
  for side in ${SETTING[topology]//x/ }; do chips=$((chips * side)); done
  if ((chips % per)); then
    fail 2 "topology: ${SETTING[topology]} has $chips chips, which" \
      "chips_per_host=$per does not divide"
  fi
  echo $((chips / per))
}

# Usage: render TOKEN. Prints the manifest.
render() {
  local token=$1 line key hosts arguments
  # In assignments of their own, so that a failure inside ends the script.
  hosts=$(hosts)
  arguments=$(json_list "${LINE[@]}")
  while IFS= read -r line; do
    case $line in
      '#spot'*)
        if [[ ${SETTING[spot]} != yes ]]; then continue; fi
        line=${line#'#spot'}
        ;;
      '#bucket'*)
        if [[ -z ${SETTING[bucket]} ]]; then continue; fi
        line=${line#'#bucket'}
        ;;
      '#'*) continue ;;
    esac
    for key in "${!SETTING[@]}"; do
      line=${line//"@${key^^}@"/"${SETTING[$key]#gs://}"}
    done
    line=${line//'@HOSTS@'/"$hosts"}
    line=${line//'@TOKEN@'/"$token"}
    # Last: what the user wrote is not searched for names.
    line=${line//'@ARGUMENTS@'/"$arguments"}
    printf '%s\n' "$line"
  done <"$ROOT/launch/manifests/jobset.yaml"
}

# Sets OWNER to the label of the JobSet that is there, THERE to whether one is.
find_jobset() {
  local answer
  kubectl_in get jobset "${SETTING[name]}" --ignore-not-found \
    '--output=jsonpath={.metadata.name}{" "}{.metadata.labels.kd_launch}'
  if is_dry; then
    run "${COMMAND[@]}"
    THERE='' OWNER=''
    return
  fi
  answer=$("${COMMAND[@]}") || fail 1 'kubectl could not be asked; see above'
  THERE=${answer%% *} OWNER=''
  if [[ $answer == *' '* ]]; then OWNER=${answer#* }; fi
}

verb_render() {
  check_line
  render "$(token)"
}

verb_apply() {
  local file
  check_line
  find_jobset
  if [[ $THERE ]]; then
    fail 1 "a JobSet ${SETTING[name]} is there already: delete it first, or" \
      "take another name"
  fi
  if is_dry; then
    file=/tmp/kd-jobset.yaml
    note "the manifest, as launch/gke render prints it, is in $file"
  else
    new_token
    file=$RECORD/jobset.yaml
    render "$(token)" >"$file"
  fi
  kubectl_in apply "--filename=$file"
  run "${COMMAND[@]}"
}

verb_status() {
  local selector="jobset.sigs.k8s.io/jobset-name=${SETTING[name]}"
  kubectl_in get jobset "${SETTING[name]}"
  run "${COMMAND[@]}"
  local code='.status.containerStatuses[?(@.name=="kd")].state.terminated.exitCode'
  kubectl_in get pods "--selector=$selector" \
    "--output=custom-columns=POD:.metadata.name,PHASE:.status.phase,CODE:$code"
  run "${COMMAND[@]}"
}

verb_logs() {
  kubectl_in logs --follow --prefix --container=kd --max-log-requests=128 \
    "--selector=jobset.sigs.k8s.io/jobset-name=${SETTING[name]}"
  run "${COMMAND[@]}"
}

verb_delete() {
  local mine
  mine=$(token)
  find_jobset
  kubectl_in delete jobset "${SETTING[name]}"
  if is_dry; then
    note 'if its label kd_launch is the one remembered here'
  elif [[ -z $THERE ]]; then
    say "there is no JobSet ${SETTING[name]} in ${SETTING[namespace]}"
    forget_token
    return
  elif [[ -z $mine || $OWNER != "$mine" ]]; then
    fail 1 "the JobSet ${SETTING[name]} was not applied here" \
      "(kd_launch='$OWNER'): it is left alone. To delete it yourself:" \
      "$(command_line "${COMMAND[@]}")"
  fi
  run "${COMMAND[@]}"
  if ! is_dry; then forget_token; fi
}
