"""The actors beside the ranks, on what a placement group has reserved for them."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hvdkit.errors import HvdkitError
from hvdkit.jobs.keeper import Outcome, keep
from hvdkit.jobs.network import rendezvous_environment
from hvdkit.ray.datasets import Blocks, columns_of

_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Where:
    """Where an actor runs.

    Attributes:
        node: Ray's name of the node.
        address: of the node.
        host: its host name.
    """

    node: str
    address: str
    host: str


class Keeper:
    """What each actor is; a rank's process runs beside it.

    Args:
        blocks: the Datasets, by name.
    """

    def __init__(self, blocks: Mapping[str, Blocks]) -> None:
        self._blocks = blocks
        self._stopped = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

    def where(self) -> Where:
        """Where this is."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return Where(node, ray.util.get_node_ip_address(), socket.gethostname())

    def keep(self, call: bytes, env: dict[str, str], driver: tuple[str, int], name: str) -> bytes:
        """Run a rank; returns its pickled `Outcome`."""
        found = {**rendezvous_environment(*driver), **env}
        rows = self._rows if self._blocks else None
        self._idle.clear()
        try:
            return pickle.dumps(keep(call, found, name, rows, self._stopped.is_set))
        finally:
            self._idle.set()

    def stop(self) -> None:
        """End the rank, whose files go with it; returns when it has ended."""
        self._stopped.set()
        self._idle.wait()

    def _rows(self, name: str, rank: int, size: int) -> dict[str, Any]:
        if name not in self._blocks:
            raise HvdkitError(
                f"this job has no data {name!r}; datasets= of hvdkit.ray.run has "
                f"{', '.join(map(repr, self._blocks))}."
            )
        return columns_of(self._blocks[name], rank, size)


class Workers:
    """The actors of a job; in a `with` block, whose end releases what they have taken.

    Args:
        ray: the module, connected.
        number: how many actors there are at a time.
        resources: what each of them needs, such as {"CPU": 1}.
        strategy: how they are spread over nodes, see `ray.util.placement_group`.
        blocks: the Datasets of the job.
        limit: seconds that resources and actors may take to come.
    """

    def __init__(
        self,
        ray: Any,
        number: int,
        resources: Mapping[str, float],
        strategy: str,
        blocks: Mapping[str, Blocks],
        limit: float,
    ) -> None:
        self.limit = limit
        self._ray = ray
        self._resources = {name: amount for name, amount in resources.items() if amount}
        self._number = number
        self._strategy = strategy
        self._blocks = blocks
        self._group: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> Self:
        self._group = self._ray.util.placement_group(
            [self._resources] * self._number, strategy=self._strategy
        )
        try:
            self._wait_for_room()
        except BaseException:
            self._ray.util.remove_placement_group(self._group)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopping = [actor.stop.remote() for actor in self._actors]
        if stopping:
            self._ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for actor in self._actors:
            self.end(actor)
        self._ray.util.remove_placement_group(self._group)

    def start(self, place: int) -> Any:
        """A new actor, in place number `place` of the group; it comes up while this returns."""
        scheduling = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=place
        )
        others = {n: a for n, a in self._resources.items() if n not in ("CPU", "GPU")}
        actor = (
            self._ray.remote(Keeper)
            .options(
                num_cpus=self._resources.get("CPU", 0),
                num_gpus=self._resources.get("GPU", 0),
                resources=others,
                max_restarts=0,
                max_concurrency=2,  # to be stopped while it keeps
                scheduling_strategy=scheduling,
            )
            .remote(self._blocks)
        )
        self._actors.append(actor)
        return actor

    def places_of(self, actors: Sequence[Any]) -> list[Where]:
        """Where actors are, when all of them have come.

        Raises:
            HvdkitError: one has not come in time, or can't start.
        """
        asked = [actor.where.remote() for actor in actors]
        self._ray.wait(asked, num_returns=len(asked), timeout=self.limit)
        return [self.place_of(reference, worker) for worker, reference in enumerate(asked)]

    def place_of(self, asked: Any, worker: int) -> Where:
        """Where the actor of a worker is, which was asked and has had the time to answer.

        Raises:
            HvdkitError: see `places_of`.
        """
        try:
            where: Where = self._ray.get(asked, timeout=0.1)
        except self._ray.exceptions.GetTimeoutError as error:
            raise HvdkitError(
                f"worker {worker} has not come within {self.limit:g} s, though Ray has reserved "
                f"{self._resources} for it. `ray list actors` and the logs of its node tell more."
            ) from error
        except self._ray.exceptions.RayError as error:
            raise HvdkitError(
                f"worker {worker} can't start: {error}\nThe nodes need the Python, hvdkit and "
                "Horovod of this process: the same image, or a runtime_env of ray.init."
            ) from error
        return where

    def outcome(self, reference: Any, host: str) -> Outcome:
        """How a rank on a host has ended; its actor may have been lost with it."""
        try:
            outcome: Outcome = pickle.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Outcome(1, None, host, 0, str(error).splitlines())
        return outcome

    def end(self, actor: Any) -> None:
        """End an actor, and its rank with it."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + self.limit
        while not self._group.wait(min(1.0, max(0.1, deadline - time.monotonic()))):
            if time.monotonic() > deadline:
                raise HvdkitError(
                    f"Ray had no room for {self._number} workers with {self._resources} each "
                    f"within {self.limit:g} s (start_timeout). The cluster has "
                    f"{_amounts(self._ray.cluster_resources(), self._resources)}, of which "
                    f"{_amounts(self._ray.available_resources(), self._resources)} are free. Ask "
                    "for fewer workers or less for each, or add nodes."
                )


def hosts_of(places: Sequence[Where]) -> list[str]:
    """What Horovod calls the host of each actor: a name for each of Ray's nodes."""
    return [host_of(where) for where in places]


def host_of(where: Where) -> str:
    """What Horovod calls a node: nodes may share a host name, or an address."""
    return f"{where.host}-{where.node[:8]}"


def _amounts(found: Mapping[str, float], wanted: Mapping[str, float]) -> str:
    return ", ".join(f"{found.get(name, 0):g} {name}" for name in wanted)
