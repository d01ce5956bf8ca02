"""A `fit` that gives faster ranks more rows, of data from `hvd.shard(..., weights="measured")`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from hvdkit.data.measured import MeasuredShares, Place
from hvdkit.data.sharded import ShardedData
from hvdkit.data.shares import apportioned
from hvdkit.data.speeds import (
    Measured,
    besides_seconds,
    described,
    is_speed,
    own_seconds,
    problem_with,
    weights_worth_a_change,
)
from hvdkit.engine import allgather_object, global_process_set, logger, topology
from hvdkit.mesh.mesh import current_mesh, replica_of
from hvdkit.training.features import Call, Feature
from hvdkit.watch.moments import Moments
from hvdkit.watch.reader import Reader
from hvdkit.watch.step_times import step_times


class SharesMeasured(Feature):
    """The ranks measure how fast each is, agree on shares, and look again from time to time."""

    def before(self, call: Call) -> None:
        """Add the callback that does it.

        Raises:
            ValueError: on every rank: XLA compiles the step, which then has no clock.
        """
        data = call.arguments["x"]
        if not isinstance(data, ShardedData) or data.sharding.size == 1:
            return
        shares = data.sharding.shares
        if not isinstance(shares, MeasuredShares):
            return
        if call.model.jit_compile:
            raise ValueError(
                'weights="measured" can\'t measure steps that XLA compiles, which know no clock: '
                "leave jit_compile=True out of compile(...), or give hvd.shard the numbers, as in "
                "weights=[2, 1, 1]."
            )
        call.add_callback(MeasureSpeeds(data, shares), first=True)


class _Report(NamedTuple):
    """What a rank tells the others.

    Attributes:
        host: its name.
        speed: rows per second of its own computing; None if it could not be measured.
        besides: seconds that a step takes it besides.
        place: up to where it deals out batches as before.
    """

    host: str
    speed: float | None
    besides: float
    place: Place


class MeasureSpeeds(keras.callbacks.Callback):
    """Measures steps; when there are enough, the ranks agree on shares.

    Args:
        data: what is trained on.
        shares: its shares.
    """

    measures_steps = True

    def __init__(self, data: ShardedData, shares: MeasuredShares) -> None:
        super().__init__()
        self._data = data
        self._shares = shares
        self._said = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin with the shares that there are."""
        self._shares.begin()
        self._reader = Reader(step_times)
        # Gradients that are accumulated exist together in the last of several steps.
        accumulated = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        self._measured = Measured(accumulated, again=self._shares.weights is not None)
        # Where a step is one update: between two of them are the things that a step needs besides.
        self._each_updates = accumulated == 1 and self.model.steps_per_execution == 1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Batches that are dealt from now on belong to this epoch."""
        self._shares.begin_epoch(epoch)
        self._before: Moments | None = None  # between epochs is more than a step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure a step; all ranks agree after the same one."""
        moments = self._reader.read()
        rows, seconds = moments.rows, own_seconds(moments)
        speed = None
        if seconds is not None and seconds > 0 and rows > 0:
            speed = rows / self.model.steps_per_execution / seconds
        besides = None
        if self._before is not None and self._each_updates:
            besides = besides_seconds(self._before, moments)
        self._before = moments
        if self._measured.add(speed, besides):
            self._agree(self._measured.speed, self._measured.besides)
            self._measured.begin_again()

    def end_measuring(self) -> None:
        """The `fit` has ended: after an error nobody waits for an agreement."""
        self._shares.change(None, None)

    def _agree(self, speed: float | None, besides: float) -> None:
        report = _Report(socket.gethostname(), speed, besides, self._shares.hold())
        mesh = current_mesh()
        # The ranks of a replica read the same rows, so they have to hear the same.
        together = mesh is not None and mesh.is_model_parallel
        process_set = global_process_set if together else self._data.process_set
        reports = allgather_object(report, name="hvdkit.speeds", process_set=process_set)
        replicas: dict[int, list[_Report]] = {}
        ranks = topology.process_set_ranks(process_set)
        for rank, one in zip(ranks, reports, strict=True):
            replicas.setdefault(replica_of(rank) if together else rank, []).append(one)
        speeds = {replica: _slowest(members) for replica, members in replicas.items()}
        what = "replica" if together else "rank"
        weights, problem = None, problem_with(speeds, what)
        if problem is None:
            numbers = [speed for speed in speeds.values() if speed is not None]
            weights = weights_worth_a_change(
                numbers,
                self._shares.weights,
                self._rows_of_step,
                self._measured.steps,
                [max(one.besides for one in members) for members in replicas.values()],
            )
        place = max(one.place for one in reports)
        self._shares.change(None if weights is None else place, weights)
        if topology.rank() != ranks[0]:
            return
        if weights is not None:
            counts = dict(zip(replicas, apportioned(weights, self._rows_of_step), strict=True))
            hosts = {replica: members[0].host for replica, members in replicas.items()}
            logger.info("hvdkit: rows of a step: %s", described(counts, hosts, what))
        elif problem is not None and not self._said:
            self._said = True
            logger.warning(
                'hvdkit: weights="measured": %s, so the shares stay as they are. Give hvd.shard '
                "the numbers, as in weights=[2, 1, 1].",
                problem,
            )

    @property
    def _rows_of_step(self) -> int:
        devices = self.model.distribute_strategy.num_replicas_in_sync
        rows = self._data.source.rows_of_step(self._data.sharding_for(devices))
        assert rows is not None
        return rows


def _slowest(replica: Sequence[_Report]) -> float | None:
    """The speed of ranks that work on the same rows."""
    speeds = [one.speed for one in replica]
    known = [speed for speed in speeds if speed is not None and is_speed(speed)]
    return min(known) if len(known) == len(speeds) else None
