"""What Horovod's elastic launcher and this process tell each other.

`horovodrun --min-np ... --host-discovery-script ...` runs a driver, which starts workers, hears
of their end, and looks every second which hosts there are. It tells rank 0 when the hosts change.
When the ranks find each other again, it says who is which rank.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

import tensorflow as tf
from horovod.common.elastic import notification_manager
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from horovod.runner.elastic.worker import HostUpdateResult

from hvdkit.engine.launcher import read_launch
from hvdkit.engine.native import mpi_ops
from hvdkit.errors import HvdkitError
from hvdkit.watch.activity import own_variable

_worlds = 1
_worlds_variable: Any = None
_entered = False


class Listener(Protocol):
    """Who wants to hear of new and lost hosts."""

    def on_hosts_updated(self, timestamp: int, update_res: HostUpdateResult) -> None:
        """Take the news; called from another thread, on rank 0."""
        ...


def is_elastic() -> bool:
    """Whether this job goes on when ranks die or join."""
    return read_launch().is_elastic


def world_number() -> int:
    """How many sets of ranks this process has been part of, with the present one.

    What is compared or compiled once for a set of ranks is kept with this number.
    """
    return _worlds


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While inside, an elastic job's driver reaches `listener`.

    From then on `require_inside` passes: what follows the training is done by all ranks, too.
    """
    global _entered
    if is_elastic():
        notification_manager.init()
    notification_manager.register_listener(listener)
    _entered = True
    try:
        yield
    finally:
        notification_manager.remove_listener(listener)


def require_inside(what: str) -> None:
    """Refuse a call before `listening` where a rank that joins would make it alone.

    Raises:
        HvdkitError: the job is elastic and the call comes too early.
    """
    if is_elastic() and not _entered:
        raise HvdkitError(
            f"in an elastic job {what} belongs inside the function that is decorated with "
            "hvd.elastic.run: a rank that joins later would call it alone and wait for ever."
        )


def of_this_world(gradients: list[Any]) -> list[Any]:
    """The same gradients, in a graph that fails when it runs after the ranks have changed.

    For reductions over a process set: when the ranks have changed it has others, or is gone.

    Args:
        gradients: tensors, `tf.IndexedSlices`, or None.
    """
    global _worlds_variable
    with tf.init_scope(), tf.device("CPU:0"):
        if _worlds_variable is None:
            _worlds_variable = own_variable(_worlds, tf.int32)
    check = tf.debugging.assert_equal(
        _worlds_variable.read_value(),
        _worlds,
        message="this tf.function was traced before the ranks changed: define it inside the "
        "function that is decorated with hvd.elastic.run, so that it is made anew.",
    )
    with tf.control_dependencies([check]):
        same: list[Any] = tf.nest.map_structure(
            lambda part: None if part is None else tf.identity(part),
            gradients,
            expand_composites=True,
        )
    return same


def count_world() -> None:
    """Note that the ranks have changed."""
    global _worlds
    _worlds += 1
    if _worlds_variable is not None:
        _worlds_variable.assign(_worlds)


def tell_of_new_hosts() -> None:
    """Let who is `listening` know that ranks wait to join; for rank 0 of a launcher of our own."""
    notification_manager.handle_hosts_updated(int(time.time()), HostUpdateResult.added)


def find_each_other_again() -> None:
    """Leave the present ranks and become one of the next: those that live, and new ones.

    `rank()` and `size()` change. Returns when all of them are there.

    Raises:
        HvdkitError: the ranks could not find each other.
    """
    mpi_ops.shutdown()
    try:
        mpi_ops.init()
    except ValueError as error:
        raise HvdkitError(f"the ranks could not find each other again: {error}") from error


__all__ = [
    "HorovodInternalError",
    "HostUpdateResult",
    "HostsUpdatedInterrupt",
    "count_world",
    "find_each_other_again",
    "is_elastic",
    "listening",
    "of_this_world",
    "require_inside",
    "tell_of_new_hosts",
    "world_number",
]
