#!/usr/bin/env bash
# Two nodes n1, n2 and a host ctl with a real Slurm, on one machine; ready when it prints "ready".
#
#   unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc tests/slurm/box.sh
#
# Nodes are network and UTS namespaces of their own. All of it, with what the daemons write, is seen
# in these namespaces only, and is gone with this process, which ends when its input does.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
readonly here nodes=(n1 n2) network=10.79.0

mount -t tmpfs none /run
mkdir -p /run/netns /run/uts /run/slurm/{etc,ctld,{spool,tmp}-n{1,2}}
mkdir -m 755 /run/munge

make_hosts() {
  local i name
  hostname ctl
  ip link set lo up
  ip link add br0 type bridge
  ip link set br0 up
  ip addr add "$network.100/24" dev br0
  printf '127.0.0.1 localhost\n%s ctl\n' "$network.100" >/run/hosts
  for i in "${!nodes[@]}"; do
    name=${nodes[i]}
    ip netns add "$name"
    ip link add eth0 netns "$name" type veth peer name "port-$name"
    ip link set "port-$name" master br0 up
    ip -n "$name" addr add "$network.$((i + 1))/24" dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" link set lo up
    touch "/run/uts/$name"
    unshare --uts="/run/uts/$name" hostname "$name"
    printf '%s %s\n' "$network.$((i + 1))" "$name" >>/run/hosts
  done
  mount --bind /run/hosts /etc/hosts
}

on() { # on NODE COMMAND...
  local name=$1
  shift
  nsenter --uts="/run/uts/$name" --net="/run/netns/$name" "$@"
}

# Slurm's plugin for PMIx looks for a name that Debian has in a package for compilers only.
add_name_of_pmix() {
  local folder=/usr/lib/x86_64-linux-gnu/pmix2/lib
  [[ -e $folder/libpmix.so.2 && ! -e $folder/libpmix.so ]] || return 0
  mkdir /run/pmix
  mount --bind "$folder" /run/pmix
  mount -t tmpfs none "$folder"
  ln -s /run/pmix/* "$folder"
  ln -s libpmix.so.2 "$folder/libpmix.so"
}

start_daemons() {
  local name
  cp "$here/slurm.conf" /run/slurm/etc/
  mount --bind /run/slurm/etc /etc/slurm
  head -c 128 /dev/urandom >/run/munge/key
  chmod 600 /run/munge/key
  munged --force --key-file=/run/munge/key --socket=/run/munge/socket --pid-file=/run/munge/pid \
    --log-file=/run/munge/log --seed-file=/run/munge/seed
  slurmctld
  for name in "${nodes[@]}"; do on "$name" slurmd; done
}

idle_nodes() { sinfo --noheader --Node --partition=normal --states=idle 2>/dev/null | wc -l; }

make_hosts >&2
add_name_of_pmix
start_daemons >&2
until (($(idle_nodes) == ${#nodes[@]})); do sleep 0.1; done
echo ready
cat >/dev/null
