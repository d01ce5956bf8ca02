#!/usr/bin/env bash
# Pods on one machine, for trying jobs as the MPI operator starts them: each has a name, an address
# and processes of its own, and a file system in common, which is this machine's with changes that
# only these namespaces see. Ready when it prints "ready"; gone with this process, which ends when
# its input does.
#
#   unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc \
#     tests/kubernetes/pods.sh SUBDOMAIN POD...
set -euo pipefail

readonly subdomain=$1 network=10.80.0 root=/run/root
shift

mount -t tmpfs none /run
mkdir -p /run/upper /run/work "$root"
mount -t overlay overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs none "$root/run"
mkdir -p "$root/run/netns" "$root/run/uts"

make_pods() {
  local number=0 name
  ip link set lo up
  ip link add br0 type bridge
  ip link set br0 up
  printf '127.0.0.1 localhost\n' >/etc/hosts
  for name in "$@"; do
    number=$((number + 1))
    ip netns add "$name"
    ip link add eth0 netns "$name" type veth peer name "port$number"
    ip link set "port$number" master br0 up
    ip -n "$name" addr add "$network.$number/24" dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" link set lo up
    touch "/run/uts/$name"
    unshare --uts="/run/uts/$name" hostname "$name"
    printf '%s %s %s\n' "$network.$number" "$name.$subdomain" "$name" >>/etc/hosts
  done
}

# A pod's own mounts and processes; an ordinary user, who can't become another one.
write_entry() {
  cat >/enter-pod <<'END'
#!/usr/bin/env bash
name=$1 folder=$2
shift 2
export name folder
exec nsenter --uts="/run/uts/$name" --net="/run/netns/$name" \
  unshare --mount --ipc --pid --fork --kill-child --mount-proc bash -ec '
    # What the image is made of may lie below /tmp.
    image=$(readlink -f /opt/hvdkit)
    if [[ -d $image ]]; then mount --bind "$image" /mnt; fi
    mount -t tmpfs -o mode=1777 none /tmp
    if mountpoint -q /mnt; then mkdir -p "$image" && mount --bind /mnt "$image"; fi
    mount -t tmpfs -o mode=1777 none /dev/shm && cd "$folder" &&
    exec setpriv --reuid=mpiuser --regid=mpiuser --init-groups --no-new-privs \
      --bounding-set=-all --inh-caps=-all "$@"' pod "$@"
END
  chmod +x /enter-pod
}

export -f make_pods write_entry
export subdomain network
chroot "$root" bash -euc 'make_pods "$@" && write_entry' pods "$@" >&2
exec chroot "$root" sh -c 'echo ready; exec cat >/dev/null'
