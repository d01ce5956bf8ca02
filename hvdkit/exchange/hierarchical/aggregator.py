"""Reduce inside each host, exchange once for each host, and share the result inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, Sum, ops, topology
from hvdkit.engine.elastic import is_elastic
from hvdkit.engine.ops.graphs import not_constant
from hvdkit.engine.process_sets import unfilled_process_set
from hvdkit.exchange.abilities import Particular
from hvdkit.exchange.aggregators import OfRanks, Summed
from hvdkit.exchange.base import Aggregated, Aggregator
from hvdkit.exchange.compression.casts import Compressing
from hvdkit.exchange.compression.error_feedback import Selective, aggregator_of
from hvdkit.exchange.configs import from_plain, plain
from hvdkit.exchange.hierarchical.kept import Kept
from hvdkit.exchange.hierarchical.levels import Levels, find_levels, require_all_ranks
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, plain_bytes, traffic_of
from hvdkit.mesh.variable import raw, variable_key


@keras.saving.register_keras_serializable("hvdkit")
class Hierarchical(OfRanks):
    """An aggregator: one rank of each host exchanges with the other hosts, for all ranks on it.

    Gradients are summed inside each host, the first rank of each, its leader, exchanges the sums
    with the other leaders by the aggregator `inner`, and the mean over all ranks is sent inside
    each host. That is the hierarchical all-reduce of Jia et al., 2018,
    https://arxiv.org/abs/1807.11205. On links between hosts, which are slow, one rank of each host
    sends; so only there `inner` compresses, and inside a host nothing is lost. Over MPI and Gloo;
    hosts may have different numbers of ranks. The mean is that of an all-reduce of all ranks, up
    to the order in which floats are summed.

    Which ranks share a host the ranks find out at their first step, when all of them register
    process sets for it. With one host there is one level, and `inner` is not used; with one rank on
    each there is `inner` alone.

    State: what `inner` keeps. Residuals are each leader's own, and zeros on other ranks; what is
    the same on all leaders, such as the directions of `PowerSGD`, is sent inside with the mean, and
    is the same on all ranks. A checkpoint goes on to the bit; with other ranks, or other hosts, the
    residuals on each host are summed for its leader before the first step, so that nothing is lost.
    `ErrorFeedback(Hierarchical(...))` works, too: what a host has not sent is then its leader's
    residual; not both.

    Bytes: what `inner` sends, once for each host, over the links between them: for 4 n bytes of
    gradients and no `inner` 2 (hosts - 1) / hosts 4 n, which an MPI that knows hosts sends for a
    plain all-reduce, too; payloads that are gathered come from each host once, and not from each
    rank. Inside a host the gradients are all-reduced and sent once more. Sparse gradients do not
    pass through it.

    Args:
        inner: an aggregator, or a codec, between hosts; it gets the sums of each host, and gives
            their mean. None for the plain mean.
        groups: lists of ranks with fast links among them, such as those of a rack, in place of
            hosts. Each rank of the job is in one; the same on all ranks.

    Raises:
        ValueError: `inner` is a `Hierarchical`, or makes no mean. At the first step, on every rank:
            `groups` are not the same on all ranks, overlap, or miss ranks.
        TypeError: `inner` is neither an aggregator nor a codec, or `groups` no lists of ranks.
        NotImplementedError: when the optimizer is built: it is an elastic job, there is a pipeline,
            or the exchange is over some of the ranks.

    Example:
        >>> between = hvd.exchange.PowerSGD(rank=4)
        >>> exchange = hvd.exchange.AllReduce(hvd.exchange.Hierarchical(between))
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(
        self,
        inner: Aggregator | Compressing | None = None,
        *,
        groups: Sequence[Sequence[int]] | None = None,
    ) -> None:
        _require_mean(inner)
        self._given: Any = inner
        self._inner = Summed(op=Sum) if inner is None else aggregator_of(inner)
        self._groups = None if groups is None else _lists_of_ranks(groups)
        self._between = unfilled_process_set()
        self._levels: Levels | None = None
        self._kept = Kept()

    @property
    def inner(self) -> Any:
        """What was given for the links between hosts."""
        return self._given

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`; it talks to no other rank, and hosts are found later.

        Raises:
            NotImplementedError: it is an elastic job, there is a pipeline, or not all ranks of the
                job have this exchange.
            ValueError: it is inside of another, or was given to an exchange over other ranks.
        """
        if is_elastic():
            raise NotImplementedError(
                "Hierarchical has process sets of the ranks of each host, which a job whose ranks "
                "come and go would have to make anew: use another aggregator, or start the job "
                "with a fixed number of ranks."
            )
        if ranks.process_set_id is None or topology.process_set_size(ranks) > 1:
            require_all_ranks(ranks)
        super().build(variables, ranks)
        return self._kept.track(self._inner.build(variables, self._between), ranks)

    def loses(self, variable: Any) -> bool:
        """Whether something of a variable's gradient may not be sent; see `Selective`."""
        if isinstance(self._inner, Selective):
            return self._inner.loses(variable)
        return self._given is not None

    def require_fitting(self, optimizer: Any) -> None:
        """See `Particular.require_fitting`: what the inner aggregator says."""
        if isinstance(self._inner, Particular):
            self._inner.require_fitting(optimizer)

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        levels = self._levels_now()
        if len(levels.groups) == 1:
            mean = ops.grouped_allreduce(
                bucket, Average, name=f"{name}.inside", process_set=self._ranks
            )
            return Aggregated(mean, lambda: list(bucket))
        sums = _summed_inside(levels, bucket, variables, f"{name}.inside")
        if levels.is_leader:
            return self._lead(levels, bucket, sums, variables, name)
        return self._follow(levels, bucket, sums, variables, name)

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`: what a leader sends to others, and what a rank sends inside."""
        between = traffic_of(self._inner, tensors, step)
        return replace(between, inside=2 * sum(map(plain_bytes, tensors)))

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {"inner": plain(self._given), "groups": self._groups}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Hierarchical:
        """An aggregator with the arguments of `get_config`.

        Raises:
            ValueError: what is inside has no config.
        """
        inner = config["inner"]
        return cls(
            None if inner is None else from_plain("Hierarchical(...)", inner),
            groups=config["groups"],
        )

    def _levels_now(self) -> Levels:
        """Where this rank stands; all ranks find it out together, at their first step.

        After `hvd.shutdown` and `hvd.init` that is so again: Horovod has forgotten process sets.
        """
        if self._levels is None or not self._levels.still_known:
            self._levels = find_levels(self._ranks, self._groups, self._between)
        self._kept.move_to_leader(self._levels)
        return self._levels

    def _lead(
        self,
        levels: Levels,
        bucket: Sequence[tf.Tensor],
        sums: list[tf.Tensor],
        variables: Sequence[Any],
        name: str,
    ) -> Aggregated:
        """Exchange with the other leaders, and send the mean inside."""
        between = self._inner.aggregate(sums, variables, f"{name}.between")
        # Graphs differ by rank: where nothing is sent inside, TensorFlow would draw this factor and
        # the next one together, and the last bits would be others than on other ranks.
        mean = [not_constant(_times(tensor, self._factor(levels))) for tensor in between.mean]
        alike = self._kept.alike_in(variables, between.kept, levels)
        new = {variable_key(variable): value for variable, value in between.kept}
        values = [tf.cast(new[variable_key(v)], raw(v).dtype) for v in alike]
        _shared_inside(levels, [*mean, *values], [*variables, *alike], name)

        def share() -> list[tf.Tensor]:
            """What the others saw: of all of the host, less than was given by what was lost."""
            return [
                given - (whole - seen)
                for given, whole, seen in zip(bucket, sums, between.sent, strict=True)
            ]

        return Aggregated(mean, share, between.kept)

    def _follow(
        self,
        levels: Levels,
        bucket: Sequence[tf.Tensor],
        sums: list[tf.Tensor],
        variables: Sequence[Any],
        name: str,
    ) -> Aggregated:
        """Take the mean from the leader, with what all ranks keep alike."""
        alike = self._kept.alike_in(variables, (), levels)
        old = [tf.convert_to_tensor(raw(variable)) for variable in alike]
        shared = _shared_inside(levels, [*sums, *old], [*variables, *alike], name)
        mean, new = shared[: len(sums)], shared[len(sums) :]
        return Aggregated(mean, lambda: list(bucket), list(zip(alike, new, strict=True)))

    def _factor(self, levels: Levels) -> float:
        """From what the inner aggregator makes of the sums to the mean over all ranks."""
        return (1 if self._given is None else len(levels.groups)) / levels.ranks


def _summed_inside(
    levels: Levels, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
) -> list[tf.Tensor]:
    """The sums over the group of this rank, of the shapes of the variables."""
    if levels.inside is None:
        return list(bucket)
    sums = ops.grouped_allreduce(bucket, Sum, name=name, process_set=levels.inside)
    # All ranks have to know alike which tensors are small.
    return [tf.ensure_shape(s, v.shape) for s, v in zip(sums, variables, strict=True)]


def _shared_inside(
    levels: Levels, tensors: list[tf.Tensor], variables: Sequence[Any], name: str
) -> list[tf.Tensor]:
    """The leader's tensors, of the shapes of some variables, on all ranks of the group."""
    if levels.inside is None:
        return tensors
    known = [tf.ensure_shape(t, v.shape) for t, v in zip(tensors, variables, strict=True)]
    return ops.grouped_broadcast(
        known, levels.leader, name=f"{name}.share", process_set=levels.inside
    )


def _times(tensor: tf.Tensor, factor: float) -> tf.Tensor:
    return tensor if factor == 1 else tensor * tf.cast(factor, tensor.dtype)


def _require_mean(inner: Any) -> None:
    if isinstance(inner, Hierarchical):
        raise ValueError(
            "Hierarchical has two levels, so there is none inside of another: give groups= to one."
        )
    if getattr(inner, "op", Average) != Average:
        raise ValueError(
            f"Hierarchical makes the mean over all ranks of the means over hosts, and "
            f"{type(inner).__name__}(op=...) makes none: leave op out."
        )


def _lists_of_ranks(groups: Any) -> list[list[int]]:
    try:
        return sorted(sorted(int(rank) for rank in group) for group in groups)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"groups is a list of lists of ranks, such as [[0, 1], [2, 3]], not {groups!r}."
        ) from error
