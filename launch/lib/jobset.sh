# shellcheck shell=bash
# The JobSet: rendered from the template, applied and deleted through kubectl.

# Usage: kubectl_in DO ARGUMENT... DO is `run`, `command_line` (prints it) or
# `command` (runs it without printing it).
kubectl_in() {
  local do=$1
  shift
  "$do" kubectl "--context=${SETTING[context]}" \
    "--namespace=${SETTING[namespace]}" "$@"
}

# Prints a string as JSON, which is also valid YAML.
json_string() {
  local text=$1
  if [[ $text == *[[:cntrl:]]* ]]; then
    fail 2 "a control character in $(quoted "$text")"
  fi
  text=${text//\\/\\\\}
  # In a container's arguments Kubernetes expands $(NAME) to a variable and
  # replaces $$ by a literal $.
  text=${text//\$/\$\$}
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

# Usage: render TOKEN. Prints the manifest.
render() {
  local line key arguments
  local -A value=([token]=$1)
  for key in "${!SETTING[@]}"; do value[$key]=${SETTING[$key]#gs://}; done
  # Separate assignments, so that a failure of the command ends the script.
  value[hosts]=$(hosts)
  value[chips]=$(chips_per_host)
  value[accelerator]=$(accelerator)
  value[owner]="gke:${SETTING[context]}/${SETTING[namespace]}/${SETTING[name]}"
  arguments=$(json_list "${LINE[@]}")
  while IFS= read -r line; do
    case $line in
      '#capacity='*)
        if [[ $line != "#capacity=${SETTING[capacity]} "* ]]; then continue; fi
        line=${line#"#capacity=${SETTING[capacity]} "}
        ;;
      '#bucket '* | '#data_dir '*)
        key=${line%% *}
        if [[ -z ${SETTING[${key#\#}]} ]]; then continue; fi
        line=${line#"$key"}
        ;;
      '#'*) continue ;;
    esac
    for key in "${!value[@]}"; do
      line=${line//"@${key^^}@"/"${value[$key]}"}
    done
    # Last, so that names in the user's arguments are not replaced.
    line=${line//'@ARGUMENTS@'/"$arguments"}
    printf '%s\n' "$line"
  done <"$ROOT/launch/manifests/jobset.yaml"
}

# Usage: get_jobset DO. Prints `NAME LABEL` of the JobSet, or nothing if it does
# not exist.
get_jobset() {
  kubectl_in "$1" get jobset "${SETTING[name]}" --ignore-not-found \
    '--output=jsonpath={.metadata.name}{" "}{.metadata.labels.kd_launch}'
}

verb_render() {
  check_line
  render "$(token)"
}

verb_apply() {
  local file there
  check_line
  if is_dry; then
    file=/tmp/kd-jobset.yaml
    get_jobset run
    note "the manifest, as launch/gke render prints it, is in $file"
  else
    there=$(get_jobset command) || fail 1 'kubectl failed; see above'
    if [[ $there ]]; then
      fail 1 "a JobSet ${SETTING[name]} is there already: delete it first, or" \
        "take another name"
    fi
    new_token
    file=$RECORD/jobset.yaml
    render "$(token)" >"$file"
  fi
  kubectl_in run apply "--filename=$file"
}

verb_status() {
  local selector="jobset.sigs.k8s.io/jobset-name=${SETTING[name]}"
  local code='.status.containerStatuses[?(@.name=="kd")].state.terminated.exitCode'
  kubectl_in run get jobset "${SETTING[name]}"
  kubectl_in run get pods "--selector=$selector" \
    "--output=custom-columns=POD:.metadata.name,PHASE:.status.phase,CODE:$code"
}

verb_logs() {
  local hosts slices=${SETTING[slices]}
  hosts=$(hosts)
  kubectl_in run logs --follow --prefix --container=kd \
    "--max-log-requests=$((hosts * slices))" \
    "--selector=jobset.sigs.k8s.io/jobset-name=${SETTING[name]}"
}

verb_delete() {
  local there owner
  if is_dry; then
    get_jobset run
    note 'if its label kd_launch is the one remembered here'
  else
    there=$(get_jobset command) || fail 1 'kubectl failed; see above'
    owner=${there#* }
    if [[ -z $there ]]; then
      say "there is no JobSet ${SETTING[name]} in ${SETTING[namespace]}"
      forget_token
      return
    fi
    check_mine "the JobSet ${SETTING[name]}" "$owner" \
      kubectl_in command_line delete jobset "${SETTING[name]}"
  fi
  kubectl_in run delete jobset "${SETTING[name]}"
  if ! is_dry; then forget_token; fi
}
