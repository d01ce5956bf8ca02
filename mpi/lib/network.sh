# shellcheck shell=bash
# The network that --interface names.
# Sourced by ../hvdkit-mpirun.sh, which declares the variables.

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
