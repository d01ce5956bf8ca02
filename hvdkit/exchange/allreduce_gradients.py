"""From each rank's gradients to the gradients that every rank applies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine import (
    OP_NAMES,
    Average,
    ProcessSet,
    Sum,
    global_process_set,
    ops,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.engine.elastic import is_elastic, of_this_world, world_number
from hvdkit.exchange.buckets import (
    BackwardOrder,
    Bucket,
    BucketPlan,
    EqualGroups,
    NamedGroups,
    OneBucket,
)
from hvdkit.exchange.compression.casts import Compression, Compressor
from hvdkit.exchange.sparse import allreduce_slices, combine_duplicates, scaled
from hvdkit.exchange.suspension import is_suspended
from hvdkit.mesh.layout import is_partial, layout_of
from hvdkit.mesh.mesh import Mesh
from hvdkit.mesh.variable import variable_key

# A tf.Tensor, tf.IndexedSlices, or None (TensorFlow has no stubs to check it by).
Gradient: TypeAlias = Any


@dataclass(frozen=True)
class ReductionOptions:
    """How gradients are reduced; the names are those of `hvd.DistributedOptimizer`.

    Attributes:
        op: `Average` or `Sum`.
        compression: how gradients travel.
        sparse_as_dense: reduce `tf.IndexedSlices` as dense tensors.
        gradient_predivide_factor: an average divides by this before the sum and by
            size / factor after it.
        groups: None for buckets in backward order, a number of groups, or lists of variables.
        process_set: the ranks that take part.
        scale_local_gradients: divide the gradients of local variables by the number of ranks.
        device_dense: device for the reduction of dense tensors, "" for the tensor's own.
        device_sparse: device for the reduction of sparse tensors.
        mesh: where the ranks hold parts of the model.
    """

    op: int = Average
    compression: Compressor = Compression.none
    sparse_as_dense: bool = False
    gradient_predivide_factor: float = 1.0
    groups: int | Sequence[Sequence[Any]] | None = None
    process_set: ProcessSet = field(default=global_process_set)
    scale_local_gradients: bool = True
    device_dense: str = ""
    device_sparse: str = ""
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if self.op not in (Average, Sum):
            raise ValueError(
                f"gradients are reduced with op=hvd.Average or hvd.Sum, not "
                f"hvd.{OP_NAMES.get(self.op, self.op)}."
            )
        if self.gradient_predivide_factor <= 0:
            raise ValueError(
                f"gradient_predivide_factor is above 0, not {self.gradient_predivide_factor}."
            )
        if self.gradient_predivide_factor != 1.0 and self.op != Average:
            raise ValueError("gradient_predivide_factor needs op=hvd.Average.")
        if isinstance(self.groups, int) and self.groups < 0:
            raise ValueError(
                f"groups is a number of groups or a list of lists of variables, not {self.groups}."
            )

    def bucket_plan(self) -> BucketPlan:
        """The plan that `groups` asks for."""
        if self.groups is None or self.groups == 0:
            return BackwardOrder()
        if isinstance(self.groups, int):
            return EqualGroups(self.groups)
        return NamedGroups(self.groups)


def groups_argument(
    num_groups: int, groups: int | Sequence[Sequence[Any]] | None
) -> int | Sequence[Sequence[Any]] | None:
    """The value of `groups`, where it may have been given under Horovod's old name."""
    if num_groups:
        # Two levels above this is the caller of hvd.DistributedOptimizer or of the tape.
        warnings.warn("num_groups is now called groups.", DeprecationWarning, stacklevel=3)
    return num_groups if num_groups and groups is None else groups


class GradientReduction:
    """Reduces gradients over ranks: local ones stay, sparse ones are gathered, dense ones summed.

    The first call compares the gradients' shapes and types between ranks, so that ranks with
    different models get an error instead of waiting for each other; and the first after the ranks
    of an elastic job have changed.

    Args:
        options: how to reduce.
        seen: the signatures that have been compared between ranks already.
    """

    def __init__(self, options: ReductionOptions, seen: set[tuple[str, ...]] | None = None) -> None:
        self.options = options
        self._plan = options.bucket_plan()
        self._local: set[int] = set()
        self._seen: set[tuple[str, ...]] = set() if seen is None else seen

    def register_local(self, variable: Any) -> None:
        """Leave the gradient of `variable` out of the reduction."""
        self._local.add(variable_key(variable))

    def is_local(self, variable: Any) -> bool:
        """Whether `variable` was registered as local."""
        return variable_key(variable) in self._local

    @property
    def active(self) -> bool:
        """Whether this rank has another one to reduce with, or may have when a graph runs."""
        require_initialized("reducing gradients")
        process_set = self.options.process_set
        if is_suspended():
            return False
        if self._outlives_its_ranks and not process_set.process_set_id:
            return True
        return topology.process_set_size(process_set) > 1 and topology.in_process_set(process_set)

    @property
    def _outlives_its_ranks(self) -> bool:
        """Whether what is made now may run with other ranks: a graph of an elastic job.

        Ranks that join make it later than the others, so there is nothing to compare meanwhile.
        """
        return is_elastic() and not tf.executing_eagerly()

    @property
    def judges(self) -> ProcessSet | None:
        """The ranks that see different gradients, once reduced; None if all see the same."""
        mesh = self.options.mesh
        return global_process_set if mesh is not None and mesh.is_model_parallel else None

    def reduce(
        self, gradients: Sequence[Gradient], variables: Sequence[Any], name: str = "gradients"
    ) -> list[Gradient]:
        """Reduce gradients over the ranks of the process set.

        Args:
            gradients: one for each variable: a tensor, `tf.IndexedSlices`, or None.
            variables: the variables (`keras.Variable` or `tf.Variable`), in the same order.
            name: names the operations on the timeline; the same on all ranks.

        Returns:
            The gradients in the same order; None stays None.

        Raises:
            RankMismatchError: on every rank, when shapes or types differ between ranks.
        """
        reduced: list[Gradient] = [self._prepare(gradient) for gradient in gradients]
        reduced = _summed_over_tensor_group(reduced, variables, name)
        if self._outlives_its_ranks:
            if self.options.process_set.process_set_id:
                reduced = of_this_world(reduced)
        elif self.active:
            self._check_once(reduced, variables)
        if not self.active:
            return reduced
        dense: list[int] = []
        for i, (gradient, variable) in enumerate(zip(reduced, variables, strict=True)):
            if gradient is None:
                continue
            if self.is_local(variable):
                reduced[i] = self._local_gradient(gradient)
            elif isinstance(gradient, tf.IndexedSlices):
                with tf.device(self.options.device_sparse or None):
                    reduced[i] = allreduce_slices(
                        gradient,
                        self.options.op,
                        self.options.compression,
                        self.options.process_set,
                        name=f"{name}.sparse{i}",
                    )
            else:
                dense.append(i)
        results = self._reduce_dense(
            [reduced[i] for i in dense], [variables[i] for i in dense], name
        )
        for i, result in zip(dense, results, strict=True):
            reduced[i] = result
        return reduced

    def _prepare(self, gradient: Gradient) -> Gradient:
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        if self.options.sparse_as_dense:
            return tf.convert_to_tensor(gradient)
        return combine_duplicates(gradient)

    def _local_gradient(self, gradient: Gradient) -> Gradient:
        if not self.options.scale_local_gradients:
            return gradient
        ranks = topology.ranks_when_run(self.options.process_set)
        return scaled(gradient, 1.0 / tf.cast(ranks, tf.float32))

    def _check_once(self, gradients: Sequence[Gradient], variables: Sequence[Any]) -> None:
        described = map(self._describe, gradients, variables)
        signature = (f"ranks {world_number()}", *described)
        if signature not in self._seen:
            require_same(
                "the gradients of the trainable variables", signature[1:], self.options.process_set
            )
            self._seen.add(signature)

    def _describe(self, gradient: Gradient, variable: Any) -> str:
        if self.is_local(variable):  # nothing has to agree
            return "local"
        if gradient is None:
            return "no gradient"
        kind = "sparse " if isinstance(gradient, tf.IndexedSlices) else ""
        return f"{kind}{dtype_and_shape(gradient.dtype, variable.shape)}"

    def _reduce_dense(
        self, gradients: list[tf.Tensor], variables: list[Any], name: str
    ) -> list[tf.Tensor]:
        plan = OneBucket() if tf.executing_eagerly() else self._plan
        sizes = [
            _bytes(gradient, variable)
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        results = list(gradients)
        with tf.device(self.options.device_dense or None):
            for number, bucket in enumerate(plan.plan(sizes, variables)):
                reduced = self._reduce_bucket(
                    [gradients[i] for i in bucket], f"{name}/bucket{number}"
                )
                for i, result in zip(bucket, reduced, strict=True):
                    results[i] = result
        return results

    def _reduce_bucket(self, gradients: list[tf.Tensor], name: str) -> list[tf.Tensor]:
        options = self.options
        compressed = [options.compression.compress(gradient) for gradient in gradients]
        reduced = ops.grouped_allreduce(
            [tensor for tensor, _ in compressed],
            options.op,
            name=name,
            prescale=1.0 / options.gradient_predivide_factor,
            postscale=options.gradient_predivide_factor,
            process_set=options.process_set,
        )
        return [
            options.compression.decompress(tensor, context)
            for tensor, (_, context) in zip(reduced, compressed, strict=True)
        ]


def _summed_over_tensor_group(
    gradients: list[Gradient], variables: Sequence[Any], name: str
) -> list[Gradient]:
    """Add up the parts of gradients that the ranks of a tensor group have."""
    partial = [i for i, v in enumerate(variables) if gradients[i] is not None and is_partial(v)]
    if not partial:
        return gradients
    layout = layout_of(variables[partial[0]])
    assert layout is not None
    sums = ops.grouped_allreduce(
        [tf.convert_to_tensor(gradients[i]) for i in partial],
        Sum,
        name=f"{name}_partial",
        process_set=layout.mesh.tensor_set,
    )
    summed = list(gradients)
    for i, total in zip(partial, sums, strict=True):
        summed[i] = total
    return summed


def _bytes(gradient: tf.Tensor, variable: Any) -> int:
    elements = gradient.shape.num_elements()
    if elements is None:
        elements = tf.TensorShape(variable.shape).num_elements() or 0
    return int(elements * gradient.dtype.size)


__all__ = ["Bucket", "Gradient", "GradientReduction", "ReductionOptions"]
