# shellcheck shell=bash
# Options of MPICH and Intel MPI, whose launchers are Hydra.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

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
