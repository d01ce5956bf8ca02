# shellcheck shell=bash
# The cores of a host, and how many each rank is bound to.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

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
