"""How far the clocks of ranks are apart.

Each rank notes when it gives its part to an allgather, and when it has the result. No result is
there before all parts are given: so whatever a clock of another machine said at the one moment, is
no later than what this one said at the other. Of several rounds, the tightest bounds count, as the
fastest round trip does in Cristian's algorithm (1989); but all ranks are compared at once, over
any library that Horovod moves data with.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hvdkit.engine import ops
from hvdkit.engine.native import ProcessSet, global_process_set
from hvdkit.engine.objects import allgather_object
from hvdkit.engine.topology import process_set_size

_ROUNDS = 16
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ahead(NamedTuple):
    """How far a clock is ahead of the first rank's.

    Attributes:
        seconds: so far; below 0 it is behind.
        uncertainty: by how much that may be wrong, in seconds.
    """

    seconds: float
    uncertainty: float


def machine() -> str:
    """What tells machines apart: ranks with one have one clock.

    Containers of a machine have names of their own, but one kernel; and two machines may have one
    name.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def clocks_ahead(
    process_set: ProcessSet = global_process_set, clock: Callable[[], float] = time.time
) -> list[Ahead]:
    """Compare the clocks of all ranks of `process_set`, which all call it.

    Args:
        process_set: the ranks.
        clock: tells seconds, such as `time.time` or `time.monotonic`; the same on all ranks.

    Returns:
        For each rank of the process set, in order, how far its clock is ahead of the first one's.
        The ranks of a machine share a clock.

    Example:
        >>> ahead = clocks_ahead()[hvd.rank()]
        >>> time.time() - ahead.seconds  # what rank 0's clock says now
    """
    if process_set_size(process_set) == 1:
        return [Ahead(0.0, 0.0)]
    machines = allgather_object(machine(), name="hvdkit.clocks.machines", process_set=process_set)
    if len(set(machines)) == 1:
        return [Ahead(0.0, 0.0) for _ in machines]
    given, had = _rounds(process_set, clock)
    ranks_of = {name: [i for i, other in enumerate(machines) if other == name] for name in machines}
    first = ranks_of[machines[0]]
    found = {name: _between(given, had, own, first) for name, own in ranks_of.items()}
    found[machines[0]] = Ahead(0.0, 0.0)
    return [found[name] for name in machines]


def _rounds(process_set: ProcessSet, clock: Callable[[], float]) -> tuple[np.ndarray, np.ndarray]:
    """When each rank gave its part, and had the result: [round, rank] of its own clock."""
    given, had, last = [], [], 0.0
    for _ in range(_ROUNDS + 1):
        begin = clock()
        gathered = ops.allgather(
            tf.constant([[begin, last]], tf.float64),
            name="hvdkit.clocks",
            process_set=process_set,
        ).numpy()
        last = clock()
        given.append(gathered[:, 0])
        had.append(gathered[:, 1])
    return np.stack(given[:-1]), np.stack(had[1:])


def _between(given: np.ndarray, had: np.ndarray, own: list[int], first: list[int]) -> Ahead:
    """How far the clock of the ranks `own` is ahead of that of the ranks `first`."""
    least = np.max(np.max(given[:, own], 1) - np.min(had[:, first], 1))
    most = np.min(np.min(had[:, own], 1) - np.max(given[:, first], 1))
    return Ahead(float(least + most) / 2, abs(float(most - least)) / 2)
