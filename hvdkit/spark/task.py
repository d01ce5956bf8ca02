"""What each task of the barrier stage does: it gives its rows to a rank, and looks after it."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import numpy as np

from hvdkit.errors import HvdkitError
from hvdkit.jobs.arrow import numpy_columns
from hvdkit.jobs.keeper import keep
from hvdkit.jobs.network import rendezvous_environment
from hvdkit.jobs.rows import Serve
from hvdkit.jobs.slots import slots_of

SCHEMA = "rank int, outcome binary"
TASKS = "tasks"  # scope of the rendezvous in which tasks say that they have come
ATTEMPT = "attempt"
FAILED = "failed"  # a rank has; there for others when they have had the time to say why


@dataclass(frozen=True)
class Task:
    """A task; it is sent to each partition.

    Attributes:
        call: the pickled function with its arguments.
        address: of the driver.
        port: of its `Rendezvous`.
        env: variables of the ranks' environment.
        columns: of the rows that a partition holds for its rank; None where it holds none.
    """

    call: bytes
    address: str
    port: int
    env: dict[str, str]
    columns: tuple[str, ...] | None

    def __call__(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Called by Spark with the batches of the partition; yields how the rank ended."""
        import pyarrow as pa
        from pyspark import BarrierTaskContext

        context = BarrierTaskContext.get()
        assert context is not None
        env = rendezvous_environment(self.address, self.port)
        own = context.partitionId()
        self._ask("PUT", f"{TASKS}/{own}", socket.gethostname())
        rows = self._rows(batches)
        hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
        slot = slots_of(hosts)[own]
        # Spark starts all tasks again when one is lost: then all that ranks have said is void.
        said = context.allGather(json.dumps(context.taskAttemptId()))
        self._ask("PUT", f"{ATTEMPT}/{said[0]}")
        variables = {**env, **self.env, **slot.environment()}
        outcome = keep(self.call, variables, f"{slot.rank}", rows, self._is_over)
        if outcome.failed:
            self._ask("PUT", f"{FAILED}/rank", str(slot.rank))
        found = pa.array([slot.rank], pa.int32()), pa.array([pickle.dumps(outcome)], pa.binary())
        yield pa.RecordBatch.from_arrays(list(found), ["rank", "outcome"])

    def _rows(self, batches: Iterator[Any]) -> Serve | None:
        import pyarrow as pa

        found, columns = list(batches), self.columns
        if columns is None:
            return None
        # A partition without rows has no batches, so nobody knows the types of its columns here.
        table = pa.Table.from_batches(found) if found else None

        def serve(name: str, rank: int, size: int) -> dict[str, np.ndarray]:
            if name != "train":
                raise HvdkitError(f"there is no data {name!r}: the rows of df= are called 'train'.")
            if table is None:
                return {column: np.zeros(0) for column in columns}
            return numpy_columns(table)

        return serve

    def _is_over(self) -> bool:
        return self._ask("GET", f"{FAILED}/rank") == 200

    def _ask(self, method: str, path: str, value: str = "") -> int:
        """Ask the driver; returns the status of its answer, 404 where there is no such value."""
        line = HTTPConnection(self.address, self.port, timeout=30)
        line.request(method, f"/{path}", value)
        status = line.getresponse().status
        line.close()
        return status
