# shellcheck shell=bash
# Options of Open MPI 4 and 5.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

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
