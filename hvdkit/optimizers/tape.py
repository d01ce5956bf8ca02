"""DistributedGradientTape: for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, global_process_set
from hvdkit.exchange.allreduce_gradients import (
    Gradient,
    GradientReduction,
    ReductionOptions,
    groups_argument,
)
from hvdkit.exchange.compression.casts import Compression, Compressor
from hvdkit.mesh.mesh import current_mesh, over_replicas
from hvdkit.optimizers.partial import local_variables_of

# A loop makes a new tape for each step; the comparison of gradients between ranks is done once.
_SEEN: set[tuple[str, ...]] = set()


class _DistributedTape:
    """A `tf.GradientTape` whose `gradient` is reduced over ranks; the rest is the tape's."""

    def __init__(self, tape: tf.GradientTape, reduction: GradientReduction) -> None:
        self._tape = tape
        self._reduction = reduction

    def __enter__(self) -> _DistributedTape:
        self._tape.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._tape.__exit__(*exception)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tape, name)

    def register_local_source(self, source: Any) -> None:
        """Leave the gradient of a variable out of the reduction."""
        self._reduction.register_local(source)

    @tf.autograph.experimental.do_not_convert
    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        use_generic_names: bool = False,
        **options: Any,
    ) -> Any:
        """The gradient of `target`, averaged over ranks.

        Args:
            target: as in `tf.GradientTape.gradient`.
            sources: variables (`keras.Variable` or `tf.Variable`) or tensors, in any structure.
            output_gradients: as in `tf.GradientTape.gradient`.
            use_generic_names: kept for Horovod's signature; names never depend on variables.
            **options: more arguments of `tf.GradientTape.gradient`.

        Returns:
            Gradients in the structure of `sources`.
        """
        del use_generic_names
        raw = _raw_sources(sources)
        gradients = self._tape.gradient(target, raw, output_gradients, **options)
        reduced = self._reduction.reduce(
            keras.tree.flatten(gradients), keras.tree.flatten(sources), name="DistributedTape"
        )
        return keras.tree.pack_sequence_as(sources, reduced)

    def get_local_and_global_gradients(
        self,
        target: Any,
        sources: Sequence[Any],
        output_gradients: Any = None,
        use_generic_names: bool = False,
    ) -> tuple[list[tuple[Any, Gradient]], list[tuple[Any, Gradient]]]:
        """Gradients as (source, gradient) pairs: those of local sources, and the others."""
        gradients = self.gradient(target, sources, output_gradients, use_generic_names)
        pairs = list(zip(sources, gradients, strict=True))
        local = [pair for pair in pairs if self._reduction.is_local(pair[0])]
        others = [pair for pair in pairs if not self._reduction.is_local(pair[0])]
        return local, others


def _raw_sources(sources: Any) -> Any:
    return keras.tree.map_structure(
        lambda source: source.value if isinstance(source, keras.Variable) else source, sources
    )


def DistributedGradientTape(
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    scale_local_gradients: bool = True,
) -> Any:
    """Wrap a `tf.GradientTape` so that `gradient` returns the average over all ranks.

    Args:
        gradtape: the tape, before or after it has recorded.
        device_dense: device for the reduction of dense gradients; "" for the gradient's own.
        device_sparse: device for the reduction of sparse gradients.
        compression: how gradients travel: `hvd.Compression.none`, `fp16` or `bf16`.
        sparse_as_dense: reduce the gradients of embeddings as dense tensors.
        op: `hvd.Average` or `hvd.Sum`.
        gradient_predivide_factor: with `hvd.Average`, divide by this before the sum and by
            size / factor after it.
        num_groups: Horovod's old name of `groups`.
        groups: None for buckets in the order of the backward pass, a number of groups, or lists
            of variables to be reduced together.
        process_set: the ranks to reduce over. With a mesh (`hvd.set_mesh`), its `data_set`.
        scale_local_gradients: divide the gradients of local sources by the number of ranks.

    Example:
        >>> with tf.GradientTape() as tape:
        ...     loss = loss_fn(y, model(x, training=True))
        >>> tape = hvd.DistributedGradientTape(tape)
        >>> gradients = tape.gradient(loss, model.trainable_variables)
        >>> optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    """
    options = ReductionOptions(
        op=op,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        groups=groups_argument(num_groups, groups),
        process_set=over_replicas(process_set),
        scale_local_gradients=scale_local_gradients,
        device_dense=device_dense,
        device_sparse=device_sparse,
        mesh=current_mesh(),
    )
    return _DistributedTape(gradtape, GradientReduction(options, seen=_SEEN))


def PartialDistributedGradientTape(
    gradtape: tf.GradientTape,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
    sparse_as_dense: bool = False,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
) -> Any:
    """`DistributedGradientTape` that leaves the gradients of some layers on their rank.

    Args:
        gradtape: as in `DistributedGradientTape`, as all arguments but `local_layers`.
        device_dense: see `DistributedGradientTape`.
        device_sparse: see `DistributedGradientTape`.
        compression: see `DistributedGradientTape`.
        sparse_as_dense: see `DistributedGradientTape`.
        op: see `DistributedGradientTape`.
        gradient_predivide_factor: see `DistributedGradientTape`.
        num_groups: see `DistributedGradientTape`.
        groups: see `DistributedGradientTape`.
        process_set: see `DistributedGradientTape`.
        local_layers: a built `keras.Layer`, or a list of them, that each rank trains by itself.
        scale_local_gradients: divide their gradients by the number of ranks.

    Raises:
        ValueError: `local_layers` holds something else than built Keras layers.
    """
    tape = DistributedGradientTape(
        gradtape,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        num_groups,
        groups,
        process_set,
        scale_local_gradients,
    )
    for variable in local_variables_of(local_layers):
        tape.register_local_source(variable)
    return tape
