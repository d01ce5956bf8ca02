"""The default exchange: every rank applies the mean of all ranks' gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import (
    OP_NAMES,
    Adasum,
    Average,
    ProcessSet,
    Sum,
    global_process_set,
    ops,
    topology,
)
from hvdkit.exchange.abilities import Particular
from hvdkit.exchange.aggregators import plain_aggregator
from hvdkit.exchange.base import Aggregator, GradientExchange
from hvdkit.exchange.buckets import (
    BackwardOrder,
    BucketPlan,
    EqualGroups,
    NamedGroups,
    OneBucket,
)
from hvdkit.exchange.compression.casts import AsIs, Compressing, Compression, codec_of
from hvdkit.exchange.configs import from_plain, plain, plain_ranks, ranks_of
from hvdkit.exchange.gradient import Gradient, bytes_of
from hvdkit.exchange.memory import NewValue, commit
from hvdkit.exchange.sparse import allreduce_slices
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, traffic_of
from hvdkit.mesh.mesh import over_replicas
from hvdkit.mesh.variable import variable_key


@keras.saving.register_keras_serializable("hvdkit")
class AllReduce(GradientExchange):
    """Average gradients over ranks: dense ones in buckets, sparse ones row by row.

    In a graph the buckets follow the backward pass, so that the last layers' gradients travel while
    the first layers' are computed.

    Args:
        aggregator: how a bucket becomes its mean; None to all-reduce it. Sparse gradients do not
            pass through it (with `sparse_as_dense=True` of the optimizer they do), and a single
            rank has nothing to send.
        op: `hvd.Average`, `hvd.Sum`, or `hvd.Adasum`: gradients of two ranks that point the same
            way are averaged, and those at right angles added up, variable by variable; over MPI, a
            power of 2 of ranks, and no sparse gradients (Maleki et al., 2020,
            https://arxiv.org/abs/2006.02924). As Horovod's `hvd.allreduce(op=hvd.Adasum)` of the
            gradients; `AdasumDelta` combines the steps that optimizers make of them, which is the
            same for SGD without momentum.
        compression: how gradients travel: `hvd.Compression.none`, `fp16` or `bf16`; a codec; or
            anything with `compress` and `decompress`.
        gradient_predivide_factor: with `hvd.Average`, divide by this before the sum and by
            size / factor after it.
        groups: None to reduce in buckets, in the order of the backward pass; a number of groups;
            or lists of variables (or of their paths) to be reduced together.
        process_set: the ranks to reduce over. With a mesh (`hvd.set_mesh`), its `data_set`.
        device_dense: device for the reduction of dense gradients; "" for the gradient's own.
        device_sparse: device for the reduction of sparse gradients.

    Raises:
        ValueError: an argument is out of range, or contradicts the aggregator.
        TypeError: `aggregator` is no aggregator, or `compression` no codec.

    Example:
        >>> exchange = hvd.exchange.AllReduce(compression=hvd.Compression.bf16)
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(), exchange=exchange)
    """

    def __init__(
        self,
        aggregator: Aggregator | None = None,
        *,
        op: int = Average,
        compression: Compressing = Compression.none,
        gradient_predivide_factor: float = 1.0,
        groups: int | Sequence[Sequence[Any]] | None = None,
        process_set: ProcessSet = global_process_set,
        device_dense: str = "",
        device_sparse: str = "",
    ) -> None:
        _require_possible(op, gradient_predivide_factor)
        self._op = op
        self._compression = compression
        self._factor = gradient_predivide_factor
        self._groups = groups
        self._given = aggregator
        self._device_dense = device_dense
        self._device_sparse = device_sparse
        self._ranks = over_replicas(process_set)
        self._plan = _bucket_plan(groups)
        codec = codec_of(compression)
        self._row_codec = codec if codec.additive else AsIs()
        if op == Adasum and not codec.additive:
            raise ValueError(
                f"hvd.Adasum is made on the way, and payloads of {type(codec).__name__} have no "
                "sum: leave compression out, or use hvd.Compression.fp16."
            )
        if aggregator is None:
            aggregator = plain_aggregator(codec, op, gradient_predivide_factor)
        else:
            self._require_plain_beside(aggregator)
        self._aggregator = aggregator
        self._kept: dict[int, NewValue] = {}

    @property
    def ranks(self) -> ProcessSet:
        """The ranks that the gradients are reduced over."""
        return self._ranks

    def build(self, variables: Sequence[Any]) -> Sequence[Tracked]:
        """What the aggregator keeps.

        Raises:
            NotImplementedError: Adasum does not work over these ranks.
        """
        if self._op == Adasum and topology.process_set_size(self._ranks) > 1:
            ops.require_adasum(self._ranks)
        return self._aggregator.build(variables, self._ranks)

    def gradients(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str
    ) -> list[Gradient]:
        """The mean of all ranks' gradients; see `Exchange.gradients`."""
        reduced = list(gradients)
        self._kept = {}
        dense: list[int] = []
        for i, gradient in enumerate(gradients):
            if isinstance(gradient, tf.IndexedSlices):
                with tf.device(self._device_sparse or None):
                    reduced[i] = allreduce_slices(
                        gradient, self._op, self._row_codec, self._ranks, name=f"{name}.sparse{i}"
                    )
            elif gradient is not None:
                dense.append(i)
        means = self._in_buckets([reduced[i] for i in dense], [variables[i] for i in dense], name)
        for i, mean in zip(dense, means, strict=True):
            reduced[i] = mean
        return reduced

    def remember(self, applied: Callable[[], tf.Tensor]) -> None:
        """See `Remembers.remember`: what the aggregator keeps of the last step."""
        kept, self._kept = self._kept, {}
        commit(list(kept.values()), applied)

    def require_fitting(self, optimizer: Any) -> None:
        """See `Particular.require_fitting`: what the aggregator says."""
        if isinstance(self._aggregator, Particular):
            self._aggregator.require_fitting(optimizer)

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """What each rank sends for some dense gradients; see `Counted.traffic`.

        Raises:
            TypeError: an aggregator or a codec of one's own does not tell.
        """
        return traffic_of(self._aggregator, tensors, step)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data: variables by their paths, ranks by their numbers."""
        return {
            "aggregator": plain(self._given),
            "op": OP_NAMES[self._op],
            "compression": plain(self._compression),
            "gradient_predivide_factor": self._factor,
            "groups": self._plan.paths if isinstance(self._plan, NamedGroups) else self._groups,
            "process_set": plain_ranks(self._ranks),
            "device_dense": self._device_dense,
            "device_sparse": self._device_sparse,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AllReduce:
        """An exchange with the arguments of `get_config`; every rank calls it.

        Raises:
            ValueError: an aggregator or a codec of one's own, given then, has no config.
        """
        return cls(
            **config
            | {
                "aggregator": from_plain("AllReduce(aggregator=...)", config["aggregator"]),
                "op": next(op for op, name in OP_NAMES.items() if name == config["op"]),
                "compression": from_plain("AllReduce(compression=...)", config["compression"]),
                "process_set": ranks_of(config["process_set"]),
            }
        )

    def _in_buckets(
        self, gradients: list[tf.Tensor], variables: list[Any], name: str
    ) -> list[tf.Tensor]:
        # Eagerly all of them exist already.
        plan = OneBucket() if tf.executing_eagerly() else self._plan
        sizes = list(map(bytes_of, gradients, variables))
        means = list(gradients)
        with tf.device(self._device_dense or None):
            for number, bucket in enumerate(plan.plan(sizes, variables)):
                aggregated = self._aggregator.aggregate(
                    [gradients[i] for i in bucket],
                    [variables[i] for i in bucket],
                    f"{name}/bucket{number}",
                )
                for i, mean in zip(bucket, aggregated.mean, strict=True):
                    means[i] = mean
                # Once for each, though every bucket of a step may count it.
                self._kept.update((variable_key(kept[0]), kept) for kept in aggregated.kept)
        return means

    def _require_plain_beside(self, aggregator: Any) -> None:
        """Refuse what is no aggregator, and arguments that only the plain one has."""
        kind = type(aggregator).__name__
        if not all(callable(getattr(aggregator, name, None)) for name in ("build", "aggregate")):
            raise TypeError(
                f"{kind} is no aggregator, which has build() and aggregate(); "
                "a codec is given as AllReduce(compression=...)."
            )
        arguments = {
            "op": self._op != Average,
            "compression": self._compression is not Compression.none,
            "gradient_predivide_factor": self._factor != 1.0,
        }
        if other := [name for name, is_given in arguments.items() if is_given]:
            raise ValueError(
                f"{kind} makes the mean itself, so {' and '.join(other)} would have no effect: "
                f"leave {'it' if len(other) == 1 else 'them'} out."
            )


def _require_possible(op: int, predivide_factor: float) -> None:
    if op not in (Average, Sum, Adasum):
        raise ValueError(
            "gradients are reduced with op=hvd.Average, hvd.Sum or hvd.Adasum, not "
            f"hvd.{OP_NAMES.get(op, op)}."
        )
    if predivide_factor <= 0:
        raise ValueError(f"gradient_predivide_factor is above 0, not {predivide_factor}.")
    if predivide_factor != 1.0 and op != Average:
        raise ValueError("gradient_predivide_factor needs op=hvd.Average.")


def _bucket_plan(groups: int | Sequence[Sequence[Any]] | None) -> BucketPlan:
    """The plan that `groups` asks for."""
    if groups is None or groups == 0:
        return BackwardOrder()
    if not isinstance(groups, int):
        return NamedGroups(groups)
    if groups < 0:
        raise ValueError(
            f"groups is a number of groups or a list of lists of variables, not {groups}."
        )
    return EqualGroups(groups)
