"""Which ranks a monitor counts over, and which of them speaks for all."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hvdkit.engine import (
    ProcessSet,
    allgather_object,
    broadcast_object,
    global_process_set,
    topology,
)
from hvdkit.engine.alone import own_ranks
from hvdkit.exchange.abilities import OutOfStep
from hvdkit.mesh.mesh import replicas
from hvdkit.monitoring.sample import Job
from hvdkit.optimizers.composition import chains, leaves, mesh_of
from hvdkit.state.groups import ranks_of_optimizer
from hvdkit.state.reachable import leading_optimizer


@dataclass(frozen=True)
class MonitoredRanks:
    """The ranks of a training that go in step.

    Attributes:
        process_set: they; None for this rank alone.
        numbers: their numbers.
        hosts: the host of each.
        replicas: how many replicas of the model they hold.
        speaks: whether this rank tells the figures.
    """

    process_set: ProcessSet | None
    numbers: Sequence[int]
    hosts: Sequence[str]
    replicas: int
    speaks: bool

    @property
    def first_on_host(self) -> bool:
        """Whether this rank is the first of its host."""
        own = self.numbers.index(topology.rank())
        return self.hosts.index(self.hosts[own]) == own

    def told_by_the_speaker(self, value: Any) -> Any:
        """What the rank that speaks gives; all of them call it."""
        if self.process_set is None:
            return value
        return broadcast_object(
            value, self.numbers[0], name="hvdkit.monitor_says", process_set=self.process_set
        )


def job_of(model: Any, ranks: MonitoredRanks, params: Mapping[str, Any], before: int) -> Job:
    """What is monitored.

    Args:
        model: the model that is trained.
        ranks: the ranks that train it.
        params: what Keras tells callbacks of a `fit`.
        before: steps that were done before.
    """
    optimizer = leading_optimizer(model)
    parameters: dict[str, Any] = {
        "model": model.name,
        "parameters": sum(math.prod(weight.shape) for weight in model.weights),
        "dtype_policy": model.dtype_policy.name,
        "ranks": len(ranks.numbers),
        "epochs": params.get("epochs"),
        "steps_per_epoch": params.get("steps"),
        "verbose": params.get("verbose"),
    }
    if optimizer is not None:
        plain = leaves(optimizer)[0]
        parameters["optimizer"] = type(plain).__name__.removeprefix("Distributed")
        parameters["learning_rate"] = learning_rate(optimizer)
        for chain in chains(optimizer)[:1]:
            parameters["exchange"] = type(chain.exchange).__name__
    if mesh := mesh_of(optimizer):
        parameters |= {"data": mesh.data, "pipeline": mesh.pipeline, "tensor": mesh.tensor}
    known = {name: value for name, value in parameters.items() if value is not None}
    return Job(len(ranks.numbers), list(ranks.hosts), known, before)


def learning_rate(optimizer: Any) -> float:
    """The learning rate of the next step; of several optimizers that of the first."""
    return float(keras.ops.convert_to_numpy(leaves(optimizer)[0].learning_rate))


def accumulated_steps(optimizer: Any) -> int:
    """How many steps an update takes (`gradient_accumulation_steps`)."""
    if optimizer is None:
        return 1
    return max(
        getattr(leaf, "gradient_accumulation_steps", None) or 1 for leaf in leaves(optimizer)
    )


def steps_before(optimizer: Any) -> int:
    """How many steps an optimizer has made so far."""
    if optimizer is None:
        return 0
    updates = int(keras.ops.convert_to_numpy(leaves(optimizer)[0].iterations))
    return updates * accumulated_steps(optimizer)


def monitored_ranks(model: Any) -> MonitoredRanks:
    """The ranks that train a model together; all of them call it.

    Ranks that go out of step (a parameter server's) are each alone, and the first that trains
    tells its own figures.
    """
    optimizer = leading_optimizer(model)
    own = own_ranks()
    if own is not None:
        exchange = chains(optimizer)[0].exchange
        assert isinstance(exchange, OutOfStep)
        share = exchange.share()
        return _alone(speaks=share is not None and share[0] == 0)
    mesh = mesh_of(optimizer)
    process_set = ranks_of_optimizer(optimizer) if mesh is None else global_process_set
    if process_set is None or not topology.in_process_set(process_set):
        return _alone(speaks=topology.rank() == 0)
    if topology.process_set_size(process_set) == 1:
        return _alone(speaks=True)
    numbers = topology.process_set_ranks(process_set)
    hosts = allgather_object(
        socket.gethostname(), name="hvdkit.monitored_hosts", process_set=process_set
    )
    count = len(numbers) if mesh is None else topology.process_set_size(replicas())
    return MonitoredRanks(process_set, numbers, hosts, count, topology.rank() == numbers[0])


def _alone(*, speaks: bool) -> MonitoredRanks:
    return MonitoredRanks(None, [topology.rank()], [socket.gethostname()], 1, speaks)
