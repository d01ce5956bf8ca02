"""Layers whose gradients stay on their rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from hvdkit.engine import Average, ProcessSet, global_process_set
from hvdkit.exchange.compression.casts import Compression, Compressor
from hvdkit.optimizers.distributed import DistributedOptimizer
from hvdkit.optimizers.mixins import reductions
from hvdkit.optimizers.nonfinite_policy import Policy


def local_variables_of(local_layers: Any) -> list[Any]:
    """The trainable variables of one layer or several.

    Raises:
        ValueError: something else than Keras layers was given, or a layer that is not built.
    """
    if local_layers is None:
        return []
    layers = [local_layers] if isinstance(local_layers, keras.Layer) else local_layers
    if not isinstance(layers, Iterable) or not all(isinstance(la, keras.Layer) for la in layers):
        raise ValueError("local_layers is a keras.Layer or a list of them.")
    layers = list(layers)
    unbuilt = [layer.name for layer in layers if not layer.built]
    if unbuilt:
        raise ValueError(
            f"the local layers {', '.join(unbuilt)} have no variables yet: "
            "build the model first (give it an Input, or call model.build)."
        )
    return [variable for layer in layers for variable in layer.trainable_variables]


def PartialDistributedOptimizer(
    optimizer: Any,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Compressor = Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: int = Average,
    groups: int | Sequence[Sequence[Any]] | None = None,
    process_set: ProcessSet = global_process_set,
    local_layers: Any = None,
    scale_local_gradients: bool = True,
    *,
    backward_passes_per_step: int = 1,
    average_aggregated_gradients: bool = False,
    nonfinite: Policy | None = None,
) -> Any:
    """`DistributedOptimizer` that leaves the gradients of some layers on their rank.

    Args:
        optimizer: as in `DistributedOptimizer`, as all arguments but the two below.
        name: see `DistributedOptimizer`.
        device_dense: see `DistributedOptimizer`.
        device_sparse: see `DistributedOptimizer`.
        compression: see `DistributedOptimizer`.
        sparse_as_dense: see `DistributedOptimizer`.
        gradient_predivide_factor: see `DistributedOptimizer`.
        op: see `DistributedOptimizer`.
        groups: see `DistributedOptimizer`.
        process_set: see `DistributedOptimizer`.
        local_layers: a built `keras.Layer`, or a list of them, that each rank trains by itself.
        scale_local_gradients: divide their gradients by the number of ranks.
        backward_passes_per_step: see `DistributedOptimizer`.
        average_aggregated_gradients: see `DistributedOptimizer`.
        nonfinite: see `DistributedOptimizer`.

    Raises:
        ValueError: `local_layers` holds something else than built Keras layers.
    """
    variables = local_variables_of(local_layers)
    distributed = DistributedOptimizer(
        optimizer,
        name=name,
        device_dense=device_dense,
        device_sparse=device_sparse,
        compression=compression,
        sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor,
        op=op,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients,
        groups=groups,
        process_set=process_set,
        scale_local_gradients=scale_local_gradients,
        nonfinite=nonfinite,
    )
    for reduction in reductions(distributed):
        for variable in variables:
            reduction.register_local(variable)
    return distributed
