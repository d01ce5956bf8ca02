"""The processes of the other ranks on this host: when they end, and with what status.

Linux tells the end of a process that is no child of ours through a pidfd, and from Linux 6.15 its
exit status, too (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT` of linux/pidfd.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass

_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES = 64  # sizeof(struct pidfd_info) in its first version
_INFO_EXIT_CODE_AT = 60
_PIDFD_GET_INFO = 3 << 30 | _INFO_BYTES << 16 | 0xFF << 8 | 11  # _IOWR(0xFF, 11, pidfd_info)

# The status is there when the parent has fetched it, which takes a launcher less than this.
_STATUS_SECONDS = 0.05


def this_machine() -> str:
    """What is equal for two processes that see each other's process ids."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return socket.gethostname()


@dataclass
class Process:
    """A process that may end at any time.

    Attributes:
        pid: its process id.
        pidfd: the file descriptor that becomes readable when it ends.
    """

    pid: int
    pidfd: int

    @classmethod
    def watched(cls, pid: int) -> Process | None:
        """The process, or None where this system has no pidfd (Linux < 5.3) or it has ended."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except (OSError, AttributeError):
            return None

    def fileno(self) -> int:
        """For selectors."""
        return self.pidfd

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def status(self) -> int | None:
        """The wait status of the process, which has ended; None where it can't be known."""
        end = time.monotonic() + _STATUS_SECONDS
        while True:
            status = self._from_kernel()
            if status is None:
                status = self._from_proc()
            if status is not None or time.monotonic() > end:
                return status
            time.sleep(0.0005)

    def _from_kernel(self) -> int | None:
        info = bytearray(_INFO_BYTES)
        struct.pack_into("Q", info, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self.pidfd, _PIDFD_GET_INFO, info)
        except OSError:  # an older kernel
            return None
        if not struct.unpack_from("Q", info, 0)[0] & _PIDFD_INFO_EXIT:
            return None
        return int(struct.unpack_from("i", info, _INFO_EXIT_CODE_AT)[0])

    def _from_proc(self) -> int | None:
        """From /proc, for the moment until the parent has fetched the status."""
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None
        return int(fields[-1]) if fields[0] == "Z" else None

    def kill(self) -> None:
        """End the process, even one that is stopped."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Watch no longer."""
        os.close(self.pidfd)


def outlive_launcher() -> None:
    """Ignore SIGTERM, which launchers send to the other ranks when one has ended; SIGKILL follows.

    Any thread may call it. Python's own function is for the main thread, which may be blocked.
    """
    ignore = ctypes.c_void_p(int(signal.SIG_IGN))
    ctypes.CDLL(None).signal(int(signal.SIGTERM), ignore)


def out_of_memory_kills() -> int:
    """How many processes of this host the kernel has killed for want of memory."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        for line in file:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def claim(job: str) -> socket.socket | None:
    """The right to print about a job's end on this host: for one process, as long as it lives.

    A name of an abstract Unix socket: the kernel gives it once, and takes it back by itself.

    Args:
        job: what no other job is called.

    Returns:
        None if another process has it.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0hvdkit-{job}")
    except OSError:
        holder.close()
        return None
    return holder
