"""Variables between ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import (
    ProcessSet,
    broadcast_object,
    global_process_set,
    ops,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.mesh.variable import can_be_sent, described, raw
from hvdkit.state.constants import renew_layers_of
from hvdkit.state.outside_variables import remake_functions, send


def broadcast_variables(
    variables: Iterable[Any],
    root_rank: int,
    process_set: ProcessSet = global_process_set,
    inplace: bool = False,
) -> None:
    """Assign rank `root_rank`'s values to variables, on every rank.

    Layers that compute with constants made from these variables (`keras.layers.Normalization`) make
    them anew. What no variable holds (vocabularies, boundaries of bins) is not sent: see
    `broadcast_layers` and `BroadcastGlobalVariablesCallback`.

    Args:
        variables: `keras.Variable` or `tf.Variable`, in the same order on all ranks.
        root_rank: the (global) rank that sends.
        process_set: the ranks that take part.
        inplace: kept for scripts written for Horovod; the result is the same.

    Raises:
        NotInitializedError: `init` has not been called.
        ValueError: this rank, or the root, does not belong to the process set.
    """
    del inplace
    require_initialized("hvd.broadcast_variables()")
    topology.require_member(process_set)
    topology.require_root(root_rank, process_set)
    if topology.process_set_size(process_set) == 1:
        return
    variables = list(variables)
    for position, variable in enumerate(variables):
        target = raw(variable)
        value = ops.broadcast(
            tf.convert_to_tensor(target),
            root_rank,
            name=f"hvdkit.variable.{position}",
            process_set=process_set,
        )
        # In a graph nothing but the assignment may need the value: it would be left out.
        if topology.rank() != root_rank or not tf.executing_eagerly():
            target.assign(value)
    renew_layers_of(variables)


def broadcast_layers(
    layers: Any, root_rank: int, process_set: ProcessSet = global_process_set
) -> None:
    """Give all ranks the layers of one rank: their variables, and what no variable holds.

    For layers that work outside of a model, such as those in a `dataset.map`: adapt them on one
    rank, and send them. Layers that are not built yet are built as on the root.

    Args:
        layers: a layer or model, or a list of them, the same on all ranks.
        root_rank: the (global) rank that sends.
        process_set: the ranks that take part.

    Raises:
        NotInitializedError: `init` has not been called.
        ValueError: this rank, or the root, does not belong to the process set.
        RankMismatchError: on every rank, when the ranks have other layers.

    Example:
        >>> text = keras.layers.TextVectorization(10_000)
        >>> if hvd.rank() == 0:
        ...     text.adapt(lines)
        >>> hvd.broadcast_layers(text, root_rank=0)
        >>> dataset = dataset.map(text)
    """
    require_initialized("hvd.broadcast_layers()")
    topology.require_member(process_set)
    topology.require_root(root_rank, process_set)
    given = [layers] if isinstance(layers, keras.Layer) else list(layers)
    if topology.process_set_size(process_set) == 1:
        return
    kinds = [type(layer).__name__ for layer in given]
    require_same("the layers to be sent", kinds, process_set)
    shapes = broadcast_object(
        [layer.get_build_config() if layer.built else None for layer in given],
        root_rank,
        name="hvdkit.build_configs",
        process_set=process_set,
    )
    for layer, shape in zip(given, shapes, strict=True):
        if shape is not None and not layer.built:
            layer.build_from_config(shape)
    variables = [v for layer in given for v in layer.variables if can_be_sent(v)]
    require_same("the variables of the layers", list(map(described, variables)), process_set)
    broadcast_variables(variables, root_rank, process_set)
    for layer in given:
        if send(layer, root_rank, process_set):
            remake_functions(layer)


def broadcast_(
    variables: Sequence[Any],
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[tf.Tensor]:
    """`broadcast_variables` that returns the values, under Horovod's name.

    Args:
        variables: see `broadcast_variables`.
        root_rank: see `broadcast_variables`.
        name: kept for scripts written for Horovod.
        process_set: the ranks that take part.

    Returns:
        The values of the variables after it.
    """
    del name
    broadcast_variables(variables, root_rank, process_set)
    return [tf.convert_to_tensor(raw(variable)) for variable in variables]


def broadcast_global_variables(root_rank: int) -> Any:
    """Broadcast all variables of a TensorFlow 1 graph.

    Args:
        root_rank: the rank that sends.

    Returns:
        The operation that does it.

    Raises:
        RuntimeError: in eager mode, where TensorFlow keeps no list of variables, as in Horovod.
    """
    require_initialized("hvd.broadcast_global_variables()")
    if tf.executing_eagerly():
        raise RuntimeError(
            "TensorFlow 2 keeps no list of global variables. Use "
            "hvd.broadcast_variables(model.variables, root_rank) and "
            "hvd.broadcast_variables(optimizer.variables, root_rank), or "
            "hvd.callbacks.BroadcastGlobalVariablesCallback(root_rank)."
        )
    return tf.group(
        *[
            variable.assign(ops.broadcast(variable.read_value(), root_rank))
            for variable in tf.compat.v1.global_variables()
        ]
    )
