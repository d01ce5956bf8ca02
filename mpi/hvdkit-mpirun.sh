#!/usr/bin/env bash
# Start a Horovod job with mpirun: the right binding, environment and network
# options for Open MPI 4 and 5, MPICH (Hydra) and Intel MPI.
# See README.md in this folder for what each option does and why.
set -euo pipefail

readonly PROG=hvdkit-mpirun
# Variables that every rank needs, by name and by prefix, as on the first host.
readonly FORWARD_NAMES=(PATH LD_LIBRARY_PATH PYTHONPATH)
readonly FORWARD_PREFIXES=(HOROVOD_ HVDKIT_ TF_ NCCL_ OMP_ XLA_ KERAS_)
readonly HOST_PATTERN='[A-Za-z0-9][A-Za-z0-9._@-]*'

# What the command line says.
np=""
hosts_arg=""
hostfile=""
interface=""
bind=auto
cores_arg=""
launcher_arg=""
oversubscribe=no
dry_run=no
command_line=()

# What is found out from it and from the machine.
launcher=""         # the mpirun or mpiexec to use
flavour=""          # openmpi4, openmpi5, mpich or intel
host_names=()       # empty: this machine, or what the scheduler gave
host_slots=()       # slots of each host, in the same order
slots_source=""     # for messages
max_local_ranks=0   # ranks on the fullest host
sockets=1           # of one host
cores_per_socket=1  # that this job may use
bind_mode=none      # none, core or numa
bind_cores=0        # cores of one rank when bind_mode is core
options=()          # what goes between mpirun and the command

usage() {
  cat <<'END'
usage: hvdkit-mpirun.sh -np N [options] -- COMMAND [ARGUMENT...]

  -np, -n N              number of ranks (needed)
  -H, --hosts LIST       hosts and slots, as h1:4,h2:4 (no number: 1 slot)
  --hostfile FILE        a host file in the format of the MPI in use: hosts/
                         beside this script has an example for each
  --interface NET        network interface (eth0) or network (10.0.0.0/16) for
                         MPI, NCCL and Gloo; --network is the same
  --bind HOW             auto (default), core, numa or none
  --cores N              cores of one host, or SOCKETSxCORES (2x16), where the
                         hosts differ from this machine
  --oversubscribe        allow more ranks than slots
  --mpirun PROGRAM       the launcher to use (default: mpirun, then mpiexec)
  --dry-run              print the command and stop
  -h, --help             print this

Environment: HVDKIT_ALLOW_ROOT=1 lets Open MPI run as root.
END
}

note() { printf '%s: note: %s\n' "$PROG" "$1" >&2; }

# die WHAT REMEDY
die() {
  printf '%s: error: %s\n' "$PROG" "$1" >&2
  printf '%s: remedy: %s\n' "$PROG" "$2" >&2
  exit 2
}

# ---------------------------------------------------------------- arguments

need_value() { # need_value OPTION COUNT_OF_WORDS_LEFT
  (($2 >= 2)) || die "$1 needs a value" "see $PROG.sh --help"
}

parse_arguments() {
  while (($# > 0)); do
    # --option=value is --option value.
    if [[ $1 == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    case $1 in
      -np | -n | --np) need_value "$1" $#; np=$2; shift 2 ;;
      -H | --hosts | --host) need_value "$1" $#; hosts_arg=$2; shift 2 ;;
      --hostfile) need_value "$1" $#; hostfile=$2; shift 2 ;;
      --interface | --network) need_value "$1" $#; interface=$2; shift 2 ;;
      --bind) need_value "$1" $#; bind=$2; shift 2 ;;
      --cores) need_value "$1" $#; cores_arg=$2; shift 2 ;;
      --mpirun) need_value "$1" $#; launcher_arg=$2; shift 2 ;;
      --oversubscribe) oversubscribe=yes; shift ;;
      --dry-run) dry_run=yes; shift ;;
      -h | --help) usage; exit 0 ;;
      --) shift; command_line=("$@"); return ;;
      -*) die "unknown option $1" "see $PROG.sh --help; what follows -- is the command to run" ;;
      *) command_line=("$@"); return ;;
    esac
  done
}

check_arguments() {
  [[ -n $np ]] || die "the number of ranks is missing" "add -np N, for example -np 2"
  [[ $np =~ ^[1-9][0-9]{0,6}$ ]] ||
    die "-np must be a positive integer, not '$np'" "give the number of ranks, for example -np 2"
  ((${#command_line[@]} > 0)) ||
    die "no command to run" "put it after --, for example: $PROG.sh -np $np -- python train.py"
  case $bind in
    auto | core | numa | none) ;;
    *) die "--bind must be auto, core, numa or none, not '$bind'" "leave --bind out for auto" ;;
  esac
  [[ -z $hosts_arg || -z $hostfile ]] ||
    die "both --hosts and --hostfile are given" "give one of them"
  [[ -z $cores_arg || $cores_arg =~ ^[1-9][0-9]{0,4}(x[1-9][0-9]{0,4})?$ ]] ||
    die "--cores must be a number such as 16, or SOCKETSxCORES such as 2x8, not '$cores_arg'" \
      "leave --cores out to use what this machine has"
}

# ------------------------------------------------------- which MPI is there

find_launcher() {
  local name
  if [[ -n $launcher_arg ]]; then
    launcher=$(command -v -- "$launcher_arg") ||
      die "$launcher_arg was not found, or cannot be executed" \
        "check the path given to --mpirun, or leave --mpirun out"
    return
  fi
  for name in mpirun mpiexec; do
    # An absolute path matters: Open MPI then finds itself on the other hosts.
    if launcher=$(command -v "$name"); then return; fi
  done
  die "neither mpirun nor mpiexec is on PATH" \
    "activate the environment that Horovod was built in (source .venv/bin/activate), load your site's MPI module, or name the launcher with --mpirun"
}

detect_flavour() {
  local text major
  text=$("$launcher" --version 2>&1 </dev/null) ||
    die "$launcher --version failed: ${text%%$'\n'*}" \
      "this MPI cannot start here; run that command by itself and mend what it reports"
  case $text in
    *"Open MPI"* | *OpenRTE*)
      [[ $text =~ \)\ ([0-9]+)\.[0-9] ]] ||
        die "cannot read the version in '${text%%$'\n'*}'" "use Open MPI 4 or 5, MPICH or Intel MPI"
      major=${BASH_REMATCH[1]}
      ((major >= 4)) ||
        die "Open MPI $major is too old" "use Open MPI 4 or 5, MPICH or Intel MPI"
      if ((major == 4)); then flavour=openmpi4; else flavour=openmpi5; fi
      ;;
    # Intel's launcher is a Hydra too, so it is looked for first.
    *"Intel(R) MPI"*) flavour=intel ;;
    *HYDRA*) flavour=mpich ;;
    *)
      die "$launcher is of an MPI that is not known here; its version says '${text%%$'\n'*}'" \
        "use Open MPI 4 or 5, MPICH or Intel MPI, or call $launcher yourself with the options in README.md"
      ;;
  esac
}

# Open MPI refuses root unless told otherwise. We never decide that for the user.
check_root() {
  [[ $flavour == openmpi* ]] || return 0
  ((EUID == 0)) || return 0
  if [[ ${HVDKIT_ALLOW_ROOT:-} == 1 ]]; then
    options+=(--allow-run-as-root)
  elif [[ ${OMPI_ALLOW_RUN_AS_ROOT:-} != 1 || ${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-} != 1 ]]; then
    die "Open MPI does not run as root" \
      "use an ordinary account; in a container export OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1, or HVDKIT_ALLOW_ROOT=1"
  fi
}

# ---------------------------------------------------------- cores and hosts

# The CPUs that this process may run on, one number a line.
allowed_cpus() {
  local list part
  [[ -r /proc/self/status ]] || return 1
  list=$(awk '$1 == "Cpus_allowed_list:" { print $2 }' /proc/self/status)
  for part in ${list//,/ }; do seq "${part%-*}" "${part#*-}"; done
}

# Prints "SOCKETS CORES_PER_SOCKET". Hardware threads of a core count once, as
# they do for MPI; with uneven sockets the smallest decides.
local_topology() {
  local cpu dir count
  for cpu in $(allowed_cpus); do
    dir=/sys/devices/system/cpu/cpu$cpu/topology
    [[ -r $dir/physical_package_id && -r $dir/thread_siblings_list ]] || continue
    printf '%s %s\n' "$(<"$dir/physical_package_id")" "$(<"$dir/thread_siblings_list")"
  done | sort -u | awk '
    { cores[$1]++ }
    END {
      for (s in cores) { n++; if (!least || cores[s] < least) least = cores[s] }
      if (n) print n, least; else exit 1
    }' && return
  # No topology to read (not Linux, or a closed container): one socket.
  count=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
  printf '1 %s\n' "$count"
}

find_topology() {
  if [[ $cores_arg == *x* ]]; then
    sockets=${cores_arg%x*}
    cores_per_socket=${cores_arg#*x}
  elif [[ -n $cores_arg ]]; then
    cores_per_socket=$cores_arg
  else
    read -r sockets cores_per_socket < <(local_topology)
  fi
}

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

# ------------------------------------------------------------------ binding

# Each local rank gets an equal share of the cores, and no rank spans two
# sockets: that is slow, and Open MPI 5 refuses it.
choose_binding() {
  local ranks_per_socket=$(((max_local_ranks + sockets - 1) / sockets))
  local share=$((cores_per_socket / ranks_per_socket))
  case $bind in
    none | numa) bind_mode=$bind ;;
    core)
      ((share > 0)) ||
        die "--bind core needs a core for each rank, but a host has $max_local_ranks ranks and $((sockets * cores_per_socket)) core(s)" \
          "use --bind none, or fewer ranks on a host"
      bind_mode=core
      ;;
    auto)
      # Too many ranks to have a core each, or one that should have them all:
      # binding could only take cores away.
      if ((share > 0 && max_local_ranks > 1 && max_local_ranks >= sockets)); then
        bind_mode=core
      fi
      ;;
  esac
  if [[ $bind_mode == core ]]; then bind_cores=$share; fi
}

# --------------------------------------------------------- what all share

# Names of the exported variables that the ranks need, one a line.
forwarded_names() {
  local name prefix
  for name in "${FORWARD_NAMES[@]}"; do
    if [[ -n ${!name+set} ]]; then printf '%s\n' "$name"; fi
  done
  for prefix in "${FORWARD_PREFIXES[@]}"; do
    compgen -e "$prefix" || true
  done
}

is_loopback() { [[ $interface == lo || $interface == 127.* ]]; }

is_network() { [[ $interface == */* ]]; }

check_interface() {
  [[ -n $interface ]] || return 0
  if is_network; then
    [[ $interface =~ ^[0-9A-Fa-f:.]+/[0-9]{1,3}$ ]] ||
      die "'$interface' is not a network" "write it as 10.0.0.0/16, or give the name of an interface"
    return
  fi
  [[ ! -d /sys/class/net || -e /sys/class/net/$interface ]] ||
    die "this machine has no network interface '$interface'" \
      "it has: $(printf '%s ' /sys/class/net/* | sed 's|/sys/class/net/||g')(where the hosts name it differently, give the network, as 10.0.0.0/16)"
}

# The interface's name, for what does not take a network.
interface_name() {
  local name
  if ! is_network; then
    printf '%s\n' "$interface"
    return
  fi
  name=$(ip -o addr show to "$interface" 2>/dev/null | awk 'NR == 1 { print $2 }') || true
  [[ -n $name ]] ||
    die "this MPI takes the name of an interface, and none of this machine's is in the network $interface" \
      "give --interface the name that the interface has on every host"
  printf '%s\n' "$name"
}

# ----------------------------------------------------------------- Open MPI

openmpi_options() {
  local name map=slot
  options+=(-np "$np")
  if [[ -n $hostfile ]]; then
    options+=(--hostfile "$hostfile")
  elif [[ -n $hosts_arg || $slots_source == PBS_NODEFILE ]]; then
    options+=(-H "$(hosts_with_slots)")
  fi
  case $bind_mode in
    core) map+=":PE=$bind_cores" ;;
    numa) map=numa ;;
  esac
  # Open MPI 5 has dropped the separate option; both know the modifier.
  if [[ $oversubscribe == yes ]]; then map+=":OVERSUBSCRIBE"; fi
  options+=(--map-by "$map" --bind-to "$bind_mode")
  openmpi_transport_options
  openmpi_interface_options
  while IFS= read -r name; do options+=(-x "$name"); done < <(forwarded_names)
}

hosts_with_slots() {
  local i list=""
  for i in "${!host_names[@]}"; do list+="${list:+,}${host_names[i]}:${host_slots[i]}"; done
  printf '%s\n' "$list"
}

# Shared memory and TCP under ob1: the transports that are safe when several
# threads call MPI. A choice of the user's in the environment stays.
openmpi_transport_options() {
  if [[ -n ${OMPI_MCA_pml:-} ]]; then return; fi
  options+=(--mca pml ob1)
  if [[ -n ${OMPI_MCA_btl:-} ]]; then return; fi
  case $flavour in
    openmpi4) options+=(--mca btl '^openib') ;;
    # openib is gone from 5; these are what it has for the same hardware.
    openmpi5) options+=(--mca btl '^ofi,uct') ;;
  esac
}

openmpi_interface_options() {
  [[ -n $interface ]] || return 0
  options+=(--mca btl_tcp_if_include "$interface")
  if [[ $flavour == openmpi4 ]]; then
    options+=(--mca oob_tcp_if_include "$interface")
  elif ! is_loopback && ! is_network; then
    # The daemons of Open MPI 5 refuse the loopback interface (on one machine
    # they need none), and 5.0 ignores networks here, with a warning.
    options+=(--prtemca prte_if_include "$interface")
  fi
  if is_network; then
    note "MPI uses $interface; what takes only names chooses for itself: export NCCL_SOCKET_IFNAME, HOROVOD_GLOO_IFACE and, for Open MPI 5, PRTE_MCA_prte_if_include where it chooses wrong"
    return
  fi
  if [[ -z ${NCCL_SOCKET_IFNAME:-} ]]; then options+=(-x "NCCL_SOCKET_IFNAME=$interface"); fi
  if [[ -z ${HOROVOD_GLOO_IFACE:-} ]]; then options+=(-x "HOROVOD_GLOO_IFACE=$interface"); fi
}

# ------------------------------------------------- Hydra: MPICH and Intel MPI

hydra_environment_options() {
  local names
  names=$(forwarded_names | paste -sd, -)
  options+=(-genvlist "$names")
}

hydra_interface_options() {
  local name variable variables=(NCCL_SOCKET_IFNAME HOROVOD_GLOO_IFACE FI_TCP_IFACE)
  [[ -n $interface ]] || return 0
  name=$(interface_name)
  options+=(-iface "$name")
  case $flavour in
    # MPICH is built on libfabric or on UCX; each ignores the other's variable.
    mpich) variables+=(UCX_NET_DEVICES) ;;
    intel) variables+=(I_MPI_HYDRA_IFACE) ;;
  esac
  for variable in "${variables[@]}"; do
    if [[ -z ${!variable:-} ]]; then options+=(-genv "$variable" "$name"); fi
  done
}

mpich_options() {
  options+=(-n "$np")
  if [[ -n $hostfile ]]; then
    options+=(-f "$hostfile")
  elif [[ -n $hosts_arg || $slots_source == PBS_NODEFILE ]]; then
    options+=(-hosts "$(hosts_with_slots)")
  fi
  case $bind_mode in
    none) options+=(-bind-to none) ;;
    core) options+=(-bind-to "core:$bind_cores" -map-by "core:$bind_cores") ;;
    numa) options+=(-bind-to numa -map-by numa) ;;
  esac
  hydra_environment_options
  hydra_interface_options
}

# -hosts of Intel MPI takes names only; the slots go into -ppn, one number for
# all hosts.
intel_host_options() {
  local slots
  if [[ -n $hostfile ]]; then
    options+=(-machinefile "$hostfile")
  elif [[ $slots_source == PBS_NODEFILE ]]; then
    options+=(-machinefile "$PBS_NODEFILE")
  elif [[ -n $hosts_arg ]]; then
    for slots in "${host_slots[@]}"; do
      ((slots == host_slots[0])) ||
        die "Intel MPI takes hosts with different numbers of slots from a file only" \
          "use --hostfile with a file as in hosts/intel.hosts, which is beside $PROG.sh"
    done
    options+=(-hosts "$(IFS=,; printf '%s' "${host_names[*]}")" -ppn "${host_slots[0]}")
  fi
}

intel_binding_options() {
  # With --bind auto, pinning that the user set in the environment stays.
  if [[ $bind == auto && -n ${I_MPI_PIN:-}${I_MPI_PIN_DOMAIN:-} ]]; then return; fi
  case $bind_mode in
    none) options+=(-genv I_MPI_PIN 0) ;;
    # auto:compact is this host's CPUs divided by its ranks, neighbours together.
    core) options+=(-genv I_MPI_PIN 1 -genv I_MPI_PIN_DOMAIN auto:compact) ;;
    numa) options+=(-genv I_MPI_PIN 1 -genv I_MPI_PIN_DOMAIN numa) ;;
  esac
}

intel_options() {
  options+=(-n "$np")
  intel_host_options
  intel_binding_options
  hydra_environment_options
  hydra_interface_options
}

# ----------------------------------------------------------------------- run

print_quoted() {
  local word separator=""
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then word=${word@Q}; fi
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
  printf '\n'
}

# mpirun ends its ranks 0.2 s after SIGTERM or Ctrl-C, but passes SIGUSR1 on to
# them and leaves them the time to save. So the first signal of any kind becomes
# SIGUSR1, and the second one ends the job. mpirun gets a session of its own:
# the terminal sends Ctrl-C to all processes of this one.
child=""
signals=0

pass_signal_on() {
  signals=$((signals + 1))
  if [[ -z $child ]]; then return; fi
  if ((signals == 1)); then kill -USR1 "$child"; else kill -TERM "$child"; fi
}

run_job() {
  local status
  trap pass_signal_on TERM INT USR1
  setsid "$@" <&0 &
  child=$!
  if ((signals > 0)); then kill -USR1 "$child"; fi
  while true; do
    # A signal ends the wait, but not the job.
    wait "$child" && status=0 || status=$?
    kill -0 "$child" 2>/dev/null || exit "$status"
  done
}

main() {
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
    die "bash $BASH_VERSION is too old" "use bash 4.4 or later"
  parse_arguments "$@"
  check_arguments
  find_launcher
  detect_flavour
  check_interface
  find_topology
  find_slots
  check_slots
  check_root
  count_local_ranks
  choose_binding
  case $flavour in
    openmpi*) openmpi_options ;;
    mpich) mpich_options ;;
    intel) intel_options ;;
  esac
  if [[ $dry_run == yes ]]; then
    print_quoted "$launcher" "${options[@]}" "${command_line[@]}"
  else
    run_job "$launcher" "${options[@]}" "${command_line[@]}"
  fi
}

main "$@"
