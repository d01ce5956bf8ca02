"""Hosts on this machine, joined by links whose rate, cable and power a test controls.

A host is a process with its own network, host name, mounts, processes and shared memory, and a
real sshd. All are plugged into one switch, and their traffic stays inside. Nothing is named outside
of them, and they are ended with the process that has made them: nothing is left, whatever happens.
Needs root, Linux, and Debian's iproute2, util-linux and openssh-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from launch import Finished, environment, run_command, start_command

from hvdkit_cli.run.script import end_with_parent

NETWORK = "10.79.0"
LINUX_PROGRAMS = ("ip", "tc", "unshare", "nsenter", "ssh", "/usr/sbin/sshd")
# What runs on a host that nobody uses.
_OWN_PROCESSES = ("sshd:", "sleep infinity")
# Of these folders each host has its own; TMPDIR is in the first.
_OWN_FOLDERS = ("/run", "/dev/shm")
_TMP = "/run/tmp"
_NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
_UP_SECONDS = 10.0

# The first process of a host: what is left without a parent is its child, and it waits for it.
_BOOT = """
set -e
hostname {name}
ip link set lo up
{mounts}
mkdir -m 1777 {tmp}
mkdir -m 755 /run/sshd
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
while ! ip link set eth0 up 2>/dev/null; do sleep 0.02; done
ip addr add {address}/24 dev eth0
/usr/sbin/sshd -E {folder}/{name}.log -f {folder}/sshd_config
touch {folder}/{name}.up
sleep infinity &
while true; do wait || true; done
"""
_SSH = """Host *
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""
_SSHD = """Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
SetEnv TMPDIR={tmp}
"""


class Host:
    """A host, while the cluster is there.

    Args:
        name: its name.
        address: its address.
        first: the process that holds its namespaces, seen from outside.
        switch: the process that holds the switch.
    """

    def __init__(self, name: str, address: str, first: int, switch: int) -> None:
        self.name = name
        self.address = address
        self._first = first
        self._switch = switch
        self._inside = os.stat(f"/proc/{first}/ns/pid").st_ino

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command on the host, in this folder."""
        spaces = ["-n", "-u", "-m", "-p", "-i", f"--wd={os.getcwd()}"]
        return ["nsenter", "-t", str(self._first), *spaces, "env", f"TMPDIR={_TMP}", *command]

    def run(
        self, *command: str, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run a command on the host, as a user who has logged in there, and wait for its end."""
        return run_command(self.command(*command), timeout=timeout, env=env)

    def start(
        self, *command: str, printed: IO[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on the host; it prints into a file."""
        return start_command(self.command(*command), printed, env)

    def stop_sshd(self) -> None:
        """Let ssh be refused; what runs goes on."""
        for pid, line in self._all().items():
            if line.startswith(("sshd: /usr/sbin/sshd", "/usr/sbin/sshd")):  # just started
                os.kill(pid, signal.SIGKILL)

    def shell(self, script: str) -> str:
        """Run a short script of the shell there; returns what it printed, fails if it fails."""
        return _checked(*self.command("sh", "-ec", script))

    def processes(self) -> dict[int, str]:
        """The command lines of what runs there, but for its first one and sshd."""
        return {p: line for p, line in self._all().items() if not line.startswith(_OWN_PROCESSES)}

    def _all(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                inside = os.stat(folder / "ns/pid").st_ino == self._inside
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:  # it has ended
                continue
            if inside and line and int(folder.name) != self._first:
                found[int(folder.name)] = line
        return found

    def unplug(self) -> None:
        """Pull the cable: nothing comes or goes, and no connection is closed."""
        _checked(*self._at_switch("ip", "link", "set", self.name, "down"))

    def plug(self) -> None:
        """Mend the cable."""
        _checked(*self._at_switch("ip", "link", "set", self.name, "up"))

    def set_rate(self, rate: str) -> None:
        """Let the link have a rate, in the words of `tc`, such as "10mbit"."""
        shape = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "100ms"]
        _checked(*self._at_switch("tc", "qdisc", "replace", "dev", self.name, *shape))
        _checked(*self._inside_net("tc", "qdisc", "replace", "dev", "eth0", *shape))

    def allow_ssh_only(self) -> None:
        """A firewall: no connections but those to sshd here."""
        rules = "".join(
            f"tc filter add dev eth0 {way} protocol ip prio 1 u32 match ip protocol 6 0xff "
            f"match ip {port} 22 0xffff classid 1:1; "
            # What begins a TCP connection (SYN without ACK) goes to a device that is down.
            f"tc filter add dev eth0 {way} protocol ip prio 2 u32 match ip protocol 6 0xff "
            "match u8 0x02 0x12 at 33 action mirred egress redirect dev hole; "
            for way, port in (("ingress", "dport"), ("egress", "sport"))
        )
        self.shell(f"ip link add hole type bridge; tc qdisc add dev eth0 clsact; {rules}")

    def freeze(self) -> None:
        """Stop all that runs there; its kernel goes on."""
        for pid in [*self._all(), self._first]:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let all go on."""
        for pid in [self._first, *self._all()]:
            os.kill(pid, signal.SIGCONT)

    def power_off(self) -> None:
        """All ends at once, and nobody is told."""
        self.unplug()
        self.end()

    def end(self) -> None:
        """All that runs there ends at once; those that it had connections to are told."""
        os.kill(self._first, signal.SIGKILL)

    def _at_switch(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self._switch), "-n", *command]

    def _inside_net(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self._first), "-n", *command]


# Makes as many hosts as it is asked for.
Cluster = Callable[[int], list[Host]]


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """Hosts h1, h2, ..., which reach each other by ssh without a password, while the block runs.

    Args:
        count: how many.
        folder: for keys and settings; an empty one, which all hosts see.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        switch = _start(processes, ["unshare", "--net", "sleep", "infinity"])
        _wait_for_namespace(switch, "net")
        net = ["nsenter", "-t", str(switch), "-n"]
        _checked(*net, "ip", "link", "add", "switch", "type", "bridge")
        _checked(*net, "ip", "link", "set", "switch", "up")
        _write_settings(count, folder)
        yield [_made(processes, folder, i, switch) for i in range(1, count + 1)]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def why_not() -> str | None:
    """Why this process can make no hosts; None if it can."""
    if os.geteuid() != 0:
        return "hosts on one machine need root"
    missing = [program for program in LINUX_PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"needs {', '.join(missing)} (tests/system_packages.txt)"
    return None


def _made(processes: list[subprocess.Popen[bytes]], folder: Path, number: int, switch: int) -> Host:
    name, address = f"h{number}", f"{NETWORK}.{number}"
    own = [f"mount -t tmpfs none {own}" for own in _OWN_FOLDERS]
    boot = _BOOT.format(name=name, address=address, folder=folder, mounts="\n".join(own), tmp=_TMP)
    spaces = [*_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    outer = _start(processes, ["unshare", *spaces, "bash", "-c", boot])
    first = _child(outer)
    _wait_for_namespace(first, "net")
    net = ["nsenter", "-t", str(switch), "-n"]
    ends = ["name", "eth0", "netns", str(first), "type", "veth", "peer", "name", name]
    _checked(*net, "ip", "link", "add", *ends)
    _checked(*net, "ip", "link", "set", name, "master", "switch", "up")
    _wait_until(lambda: (folder / f"{name}.up").exists(), f"host {name}")
    return Host(name, address, first, switch)


def _write_settings(count: int, folder: Path) -> None:
    for key in ("key", "host_key"):
        _checked("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    names = "".join(f"{NETWORK}.{i} h{i}\n" for i in range(1, count + 1))
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    (folder / "ssh_config").write_text(_SSH.format(folder=folder))
    (folder / "sshd_config").write_text(_SSHD.format(folder=folder, tmp=_TMP))


def _start(processes: list[subprocess.Popen[bytes]], command: Sequence[str]) -> int:
    """Start what ends with this process, even when that is killed."""
    process = subprocess.Popen(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    processes.append(process)
    return process.pid


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    _wait_until(lambda: bool(children.read_text().split()), "a host")
    return int(children.read_text().split()[0])


def _wait_for_namespace(pid: int, kind: str) -> None:
    own = os.readlink(f"/proc/self/ns/{kind}")
    _wait_until(lambda: os.readlink(f"/proc/{pid}/ns/{kind}") != own, "a namespace")


def _wait_until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _UP_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up within {_UP_SECONDS:g} s")
        time.sleep(0.01)


def _checked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
