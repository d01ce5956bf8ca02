"""What the ranks of a host use of it: its cores, its GPUs and its network."""

from __future__ import annotations

import contextlib
import socket
import time

import psutil

from hvdkit.engine import topology
from hvdkit.engine.cores import affinity, cgroup_quota
from hvdkit.monitoring.measurement import Network, Use
from hvdkit.monitoring.readings.busy import GpuLoad
from hvdkit.monitoring.readings.nvml import visible_gpus

_BITS_OF_A_MEGABIT = 10**6


class UseSince:
    """What this rank uses from now on."""

    def __init__(self) -> None:
        self._devices = visible_gpus()
        self._load = GpuLoad.open(self._devices)
        self._sent = _sent_bytes()
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()

    def look(self) -> None:
        """A step has been made: look at what does not count by itself."""
        if self._load is not None:
            self._load.look()

    def until_now(self) -> Use:
        """What it has used."""
        seconds = time.perf_counter() - self._started
        before = self._cpu
        cpu = sum(used - before.get(pid, 0.0) for pid, used in _cpu_seconds().items())
        return Use(
            rank=topology.rank(),
            host=socket.gethostname(),
            seconds=seconds,
            cpu_seconds=cpu,
            cores=sorted(affinity()),
            quota=cgroup_quota(),
            devices=self._devices,
            devices_busy=None if self._load is None else self._load.share,
            network=self._network() if topology.local_rank() == 0 else None,
        )

    def _network(self) -> Network | None:
        sent = {name: count - self._sent.get(name, count) for name, count in _sent_bytes().items()}
        if not any(sent.values()):
            return None
        busiest = max(sent, key=lambda name: sent[name])
        megabits = psutil.net_if_stats()[busiest].speed
        rate = megabits * _BITS_OF_A_MEGABIT / 8 if megabits > 0 else None
        return Network(busiest, sent[busiest], rate)


def _cpu_seconds() -> dict[int, float]:
    """Of this process and those that it has started, by their ids."""
    own = psutil.Process()
    found = {}
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _sent_bytes() -> dict[str, int]:
    """By network interface; not what the host sends to itself."""
    itself = {name for name in psutil.net_if_stats() if name == "lo" or name.startswith("lo:")}
    counters = psutil.net_io_counters(pernic=True)
    return {name: each.bytes_sent for name, each in counters.items() if name not in itself}
