# shellcheck shell=bash
# The node pools that a JobSet runs on, one for each slice.

# Prints the value of the node label cloud.google.com/gke-tpu-accelerator.
accelerator() {
  case ${SETTING[machine_type]} in
    ct4p-*) echo tpu-v4-podslice ;;
    ct5lp-*) echo tpu-v5-lite-podslice ;;
    ct5p-*) echo tpu-v5p-slice ;;
    ct6e-*) echo tpu-v6e-slice ;;
    tpu7x-*) echo tpu7x ;;
  esac
}

# Prints the number of chips per host: the machine type ends with it, as in -4t.
chips_per_host() {
  local number=${SETTING[machine_type]##*-}
  echo "${number%t}"
}

# Prints the number of hosts per slice.
hosts() {
  local side chips=1 per
  per=$(chips_per_host)
  for side in ${SETTING[topology]//x/ }; do chips=$((chips * side)); done
  if ((chips % per)); then
    fail 2 "topology: ${SETTING[topology]} has $chips chips, which the $per of a" \
      "${SETTING[machine_type]} do not divide"
  fi
  echo $((chips / per))
}

# Refuses settings that contradict each other.
check_pool_settings() {
  local hosts capacity=${SETTING[capacity]} slices=${SETTING[slices]}
  hosts=$(hosts)
  if [[ ${SETTING[reservation]} && $capacity != reserved ]]; then
    fail 2 "reservation: found '${SETTING[reservation]}' with capacity=$capacity;" \
      "give capacity=reserved"
  fi
  if [[ $capacity == reserved && -z ${SETTING[reservation]} ]]; then
    fail 2 "reservation: not given; it is the reservation's name, and" \
      "capacity=reserved needs it"
  fi
  if [[ $capacity == flex-start ]] && ((hosts > 1)); then
    fail 2 "capacity: found flex-start with slices of $hosts hosts; GKE has it for" \
      "pools of one host. Give spot or reserved, or a smaller topology"
  fi
  if ((slices > 1 && hosts == 1)); then
    fail 2 "slices: found $slices with slices of one host; GKE joins slices of" \
      "several hosts only. Take a larger topology"
  fi
}

# Prints the name of each node pool.
pool_names() {
  local i slices=${SETTING[slices]}
  for ((i = 0; i < slices; i++)); do echo "${SETTING[pool]}-$i"; done
}

# Usage: in_cluster DO VERB NAME FLAG...
in_cluster() {
  local do=$1
  shift
  "$do" gcloud container node-pools "$@" "--cluster=${SETTING[cluster]}" \
    "--location=${SETTING[location]}" "--project=${SETTING[project]}"
}

# Refuses to continue without the settings that only node pools need.
need_cluster() {
  local name
  for name in project cluster location zone; do
    if [[ -z ${SETTING[$name]} ]]; then
      fail 2 "$name: not given; node pools need it"
    fi
  done
}

# Whether a workload policy sets the slice's topology instead of --tpu-topology.
# This is so for slices of TPU7x with several hosts.
needs_policy() {
  [[ ${SETTING[machine_type]} == tpu7x-* ]] && (($(hosts) > 1))
}

# Prints the region of the zone. Policies belong to a region.
region() { echo "${SETTING[zone]%-*}"; }

# Usage: create_pool NAME TOKEN
create_pool() {
  local hosts flags more hours=${SETTING[max_run_hours]}
  hosts=$(hosts)
  mapfile -t more < <(setting_list create_flag)
  flags=("--node-locations=${SETTING[zone]}"
    "--machine-type=${SETTING[machine_type]}" "--labels=kd_launch=$2")
  if needs_policy; then
    flags+=("--placement-policy=${SETTING[pool]}")
  elif ((hosts > 1)); then
    flags+=("--tpu-topology=${SETTING[topology]}")
  fi
  case ${SETTING[capacity]} in
    spot) flags+=(--spot) ;;
    reserved)
      flags+=(--reservation-affinity=specific
        "--reservation=${SETTING[reservation]}")
      ;;
  esac
  if [[ ${SETTING[capacity]} == flex-start ]]; then
    # Nodes are created when a pod needs them and deleted when it has ended.
    flags+=(--flex-start --enable-autoscaling --num-nodes=0 "--max-nodes=$hosts"
      --location-policy=ANY --reservation-affinity=none --no-enable-autorepair
      # GKE accepts only seconds.
      "--max-run-duration=$((hours * 3600))s")
  else
    flags+=("--num-nodes=$hosts")
  fi
  if [[ ${SETTING[internal_ips]} == yes ]]; then
    flags+=(--enable-private-nodes)
  fi
  in_cluster run create "$1" "${flags[@]}" "${more[@]}"
}

# Usage: describe_pool DO NAME. Prints the label kd_launch.
describe_pool() {
  in_cluster "$1" describe "$2" '--format=value(config.resourceLabels.kd_launch)'
}

# Usage: policy DO VERB... FLAG... Runs a command on the pools' workload policy.
policy() {
  local do=$1
  shift
  "$do" gcloud compute resource-policies "$@" "--region=$(region)" \
    "--project=${SETTING[project]}"
}

# Whether a workload policy with the pools' name exists. A dry run prints the
# command and returns true.
has_policy() {
  local answer
  if is_dry; then
    policy run describe "${SETTING[pool]}" '--format=value(name)'
    return
  fi
  answer=$(policy described describe "${SETTING[pool]}" '--format=value(name)')
  if [[ $answer == 'ERROR;;' ]]; then
    fail 1 'the workload policy could not be described; see above'
  fi
  [[ $answer != 'ABSENT;;' ]]
}

# Usage: has_pool NAME. Whether the pool exists. Fails if it was not created here.
has_pool() {
  local owner
  owner=$(describe_pool described "$1")
  case $owner in
    'ABSENT;;') return 1 ;;
    'ERROR;;') fail 1 "the node pool $1 could not be described; see above" ;;
  esac
  check_mine "the node pool $1" "$owner" in_cluster command_line delete "$1" \
    --quiet
}

# The pools have a record of their own, separate from the JobSet's. Its file
# `pools` lists the pools that were created; `policy` exists if the policy was.
open_pool_record() {
  need_cluster
  open_record "${SETTING[project]}" "${SETTING[location]}" \
    "${SETTING[cluster]}" "pool-${SETTING[pool]}"
}

verb_create_pools() {
  local name token=TOKEN
  open_pool_record
  if is_dry; then
    note 'what is there already is left as it is; TOKEN is made anew'
  else
    # A call after one that failed halfway creates what is missing.
    if [[ -z $(token) ]]; then new_token; fi
    token=$(token)
  fi
  if needs_policy && { ! has_policy || is_dry; }; then
    policy run create workload-policy "${SETTING[pool]}" \
      --type=HIGH_THROUGHPUT "--accelerator-topology=${SETTING[topology]}" ||
      fail 1 'the workload policy could not be created'
    if ! is_dry; then : >"$RECORD/policy"; fi
  fi
  for name in $(pool_names); do
    if is_dry; then
      describe_pool run "$name"
    elif has_pool "$name"; then
      say "the node pool $name is there already"
      continue
    else
      # Before the call: a failed call may leave a pool.
      echo "$name" >>"$RECORD/pools"
    fi
    create_pool "$name" "$token" ||
      fail 1 "the node pool $name could not be created; create-pools tries it" \
        "again, delete-pools deletes the others"
  done
}

# Prints the pools of the settings and all recorded pools of other settings.
pools_to_delete() {
  {
    pool_names
    if [[ -r $RECORD/pools ]]; then cat "$RECORD/pools"; fi
  } | sort -uV
}

verb_delete_pools() {
  local name
  open_pool_record
  for name in $(pools_to_delete); do
    if is_dry; then
      describe_pool run "$name"
      note 'if its label kd_launch is the one remembered here'
    elif ! has_pool "$name"; then
      say "there is no node pool $name in ${SETTING[cluster]}"
      continue
    fi
    in_cluster run delete "$name" --quiet ||
      fail 1 "the node pool $name may still be there"
  done
  delete_policy
  if ! is_dry; then
    rm -f "$RECORD/pools"
    forget_token
  fi
}

# Deletes the workload policy if it was created here.
delete_policy() {
  if ! is_dry && [[ ! -e $RECORD/policy ]]; then return; fi
  if is_dry && ! needs_policy; then return; fi
  if has_policy; then
    policy run delete "${SETTING[pool]}" --quiet ||
      fail 1 'the workload policy may still be there'
  fi
  if ! is_dry; then rm -f "$RECORD/policy"; fi
}
