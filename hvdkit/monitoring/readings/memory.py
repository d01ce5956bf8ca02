"""Memory of this process and of its devices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import tensorflow as tf

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Memory in use, in bytes.

    Attributes:
        now: at this moment.
        peak: the most since the process began; None where nobody counts.
    """

    now: int
    peak: int | None


def host_memory(status: Path = _STATUS) -> Memory:
    """The memory of this process in the host, as Linux counts it: what it shares is counted whole.

    The processes that it starts, such as workers of a data set, are not counted.

    Args:
        status: the file in which Linux tells the most.
    """
    sizes = _sizes(status)
    now = sizes.get("VmRSS") or int(psutil.Process().memory_info().rss)
    # Not `ru_maxrss`, which goes on with that of the process that started this one.
    peak = sizes.get("VmHWM")
    # Linux adds up what its processors counted apart from each other, now and then.
    return Memory(now, None if peak is None else max(now, peak))


def _sizes(status: Path) -> dict[str, int]:
    """What Linux tells of this process's memory, in bytes; nothing elsewhere."""
    try:
        lines = status.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(number) * 1024 for name, number, _ in fields}


def device_memory() -> Memory | None:
    """The memory that TensorFlow uses on the GPUs of this process, or None if it has none.

    Of several GPUs the sum; each may have had its most at another time. TensorFlow takes a GPU's
    memory as a whole, as other programs see it; this is what is in use of that.
    """
    readings = [
        tf.config.experimental.get_memory_info(device.name.removeprefix("/device:"))
        for device in tf.config.list_logical_devices("GPU")
    ]
    if not readings:
        return None
    return Memory(
        sum(int(reading["current"]) for reading in readings),
        sum(int(reading["peak"]) for reading in readings),
    )
