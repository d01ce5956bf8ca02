# shellcheck shell=bash
# Hosts, and how many ranks each takes.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

readonly HOST_PATTERN='[A-Za-z0-9][A-Za-z0-9._@-]*'

add_host() { # add_host NAME SLOTS; a host named twice has the sum
  local i
  for i in "${!host_names[@]}"; do
    if [[ ${host_names[i]} == "$1" ]]; then
      host_slots[i]=$((host_slots[i] + $2))
      return
    fi
  done
  host_names+=("$1")
  host_slots+=("$2")
}

read_hosts_argument() {
  local entry entries
  IFS=, read -r -a entries <<<"$hosts_arg"
  for entry in "${entries[@]}"; do
    [[ $entry =~ ^($HOST_PATTERN)(:([1-9][0-9]{0,5}))?$ ]] ||
      die "'$entry' in --hosts is not HOST or HOST:SLOTS" "write it as h1:4,h2:4"
    add_host "${BASH_REMATCH[1]}" "${BASH_REMATCH[3]:-1}"
  done
  slots_source="--hosts"
}

bad_line() { # bad_line NUMBER LINE
  local example=openmpi
  case $flavour in
    mpich) example=mpich ;;
    intel) example=intel ;;
  esac
  die "line $1 of $hostfile is not in the format of this MPI ($flavour): '$2'" \
    "write it as in hosts/$example.hosts, which is beside $PROG.sh"
}

# Sets host and slots from one line; slots is 0 where the line gives none.
parse_hostfile_line() { # parse_hostfile_line NUMBER LINE
  local words
  read -r -a words <<<"$2"
  host=${words[0]}
  slots=0
  if [[ $flavour == openmpi* ]]; then
    [[ $host =~ ^$HOST_PATTERN$ ]] || bad_line "$1" "$2"
    if [[ " $2" =~ [[:space:]]slots[[:space:]]*=[[:space:]]*([0-9]+) ]]; then
      slots=${BASH_REMATCH[1]}
      ((10#$slots > 0)) || bad_line "$1" "$2"
    fi
  else
    if [[ $2 =~ [[:space:]]slots ]]; then bad_line "$1" "$2"; fi
    [[ $host =~ ^($HOST_PATTERN)(:([1-9][0-9]{0,5}))?$ ]] || bad_line "$1" "$2"
    host=${BASH_REMATCH[1]}
    slots=${BASH_REMATCH[3]:-0}
  fi
}

read_hostfile() {
  local line host="" slots=0 number=0 unnumbered=() times
  [[ -f $hostfile && -r $hostfile ]] ||
    die "the host file $hostfile cannot be read" "check the path and its permissions"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%%#*}
    [[ $line =~ [^[:space:]] ]] || continue
    parse_hostfile_line "$number" "$line"
    if ((slots == 0)); then
      unnumbered+=("$host")
      slots=1
    fi
    add_host "$host" "$slots"
  done <"$hostfile"
  ((${#host_names[@]} > 0)) || die "the host file $hostfile names no host" "write one host a line"
  slots_source="$hostfile"
  # Open MPI takes a host that is named once, without slots=, to have as many
  # slots as cores; named several times, or for Hydra, each line is one slot.
  [[ $flavour == openmpi* ]] || return 0
  for host in "${unnumbered[@]}"; do
    times=$(grep -cxF -- "$host" < <(printf '%s\n' "${unnumbered[@]}"))
    ((times > 1)) || add_host "$host" $((sockets * cores_per_socket - 1))
  done
}

# PBS lists one line a rank. Builds of MPI without PBS support do not see it.
read_pbs_nodefile() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    [[ -z $line ]] || add_host "$line" 1
  done <"$PBS_NODEFILE"
  ((${#host_names[@]} > 0)) || die "PBS_NODEFILE names no host" "run this inside a PBS job, or give --hosts"
  slots_source="PBS_NODEFILE"
}

# SLURM_TASKS_PER_NODE is such as 4(x2),3. mpirun asks Slurm for the names.
read_slurm_slots() {
  local part parts repeat i=0
  IFS=, read -r -a parts <<<"$SLURM_TASKS_PER_NODE"
  for part in "${parts[@]}"; do
    [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]] ||
      die "SLURM_TASKS_PER_NODE is '$SLURM_TASKS_PER_NODE', which cannot be read" \
        "run this inside a Slurm job, or give --hosts"
    for ((repeat = ${BASH_REMATCH[3]:-1}; repeat > 0; repeat--)); do
      add_host "slurm-node-$((i++))" "${BASH_REMATCH[1]}"
    done
  done
  slots_source="the Slurm allocation"
}

find_slots() {
  if [[ -n $hosts_arg ]]; then
    read_hosts_argument
  elif [[ -n $hostfile ]]; then
    read_hostfile
  elif [[ -n ${SLURM_JOB_ID:-} && -n ${SLURM_TASKS_PER_NODE:-} ]]; then
    read_slurm_slots
  elif [[ -n ${PBS_NODEFILE:-} && -r ${PBS_NODEFILE:-} ]]; then
    read_pbs_nodefile
  else
    add_host localhost $((sockets * cores_per_socket))
    slots_source="the cores of this machine"
  fi
}

total_slots() {
  local total=0 slots
  for slots in "${host_slots[@]}"; do total=$((total + slots)); done
  printf '%s\n' "$total"
}

check_slots() {
  local total
  total=$(total_slots)
  if ((np > total)) && [[ $oversubscribe == no ]]; then
    die "$np ranks do not fit: there are $total slots on ${#host_names[@]} host(s), counted from $slots_source" \
      "use -np $total or less, name more hosts or slots (-H h1:4,h2:4), or add --oversubscribe: ranks then share cores and each runs slower"
  fi
}

# Hosts are filled in their order, as mpirun does.
count_local_ranks() {
  local total left=$np slots here
  total=$(total_slots)
  for slots in "${host_slots[@]}"; do
    here=$((left < slots ? left : slots))
    left=$((left - here))
    max_local_ranks=$((here > max_local_ranks ? here : max_local_ranks))
  done
  if ((np > total)); then
    max_local_ranks=$((max_local_ranks + (left + ${#host_names[@]} - 1) / ${#host_names[@]}))
  fi
}

hosts_with_slots() {
  local i list=""
  for i in "${!host_names[@]}"; do list+="${list:+,}${host_names[i]}:${host_slots[i]}"; done
  printf '%s\n' "$list"
}
