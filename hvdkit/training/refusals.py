"""What `fit`, `evaluate` and `predict` refuse before they start: a sentence each, on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.measured import MeasuredShares
from hvdkit.data.sharded import ShardedData
from hvdkit.mesh.layout import is_partial, is_sharded
from hvdkit.optimizers.composition import is_distributed
from hvdkit.parallel.devices.layer_split import LayerSplit
from hvdkit.parallel.pipeline.model import PipelineModel
from hvdkit.state.reachable import leading_optimizer
from hvdkit.training.features import Call, Feature

_DEFAULT_BATCH_SIZE = 32  # Keras's
_EXACT_REDUCTIONS = ("sum_over_batch_size", "mean")


class RefusedData(Feature):
    """Data that can't be read as it is given, or not by this model."""

    def before(self, call: Call) -> None:
        """Refuse it.

        Raises:
            ValueError: with the way out.
        """
        data = call.arguments["x"]
        refuse_sharded_inside(call.arguments, call.method)
        if call.trains:
            require_even_micro_batches(call.model, data, call.arguments["batch_size"])
        if not isinstance(data, ShardedData):
            return
        if call.method == "predict":
            refuse_beside_sharded(call.arguments, call.method, "batch_size")
        else:
            refuse_beside_sharded(call.arguments, call.method, "y", "sample_weight", "batch_size")
        if call.trains:
            require_exact_loss(call.model, data)


class RefusedOptimizer(Feature):
    """An optimizer that takes a sharded model for an unsharded one."""

    def before(self, call: Call) -> None:
        """Refuse it, where the model has its variables.

        Raises:
            ValueError: with the way out.
        """
        require_distributed(call.model)


def refuse_beside_sharded(arguments: Mapping[str, Any], method: str, *names: str) -> None:
    """Refuse arguments that data from `hvd.shard` has in itself.

    Args:
        arguments: of the method.
        method: `fit`, `evaluate` or `predict`.
        names: of the arguments.

    Raises:
        ValueError: one of them is given.
    """
    for name in names:
        if arguments.get(name) is not None:
            example = "x, y, sample_weight" if name == "sample_weight" else "x, y"
            how = "batch_size=32" if name == "batch_size" else f"({example}), batch_size=32"
            raise ValueError(
                f"{method}({name}=...) does not go with data from hvd.shard: "
                f"give {name} to hvd.shard, as in hvd.shard({how})."
            )
    if arguments.get("validation_split"):
        raise ValueError(
            f"{method}(validation_split=...) does not go with data from hvd.shard: split the "
            "arrays before, and give "
            "validation_data=hvd.shard((x_validation, y_validation), batch_size=32)."
        )


def refuse_sharded_inside(arguments: Mapping[str, Any], method: str) -> None:
    """Refuse data from `hvd.shard` inside a tuple or another structure, and in the place of y.

    Args:
        arguments: of the method.
        method: `fit`, `evaluate` or `predict`.

    Raises:
        ValueError: it is.
    """
    for name in ("x", "y", "sample_weight", "validation_data"):
        value = arguments.get(name)
        given = isinstance(value, ShardedData)
        if given and name in ("x", "validation_data"):
            continue
        if given or any(isinstance(leaf, ShardedData) for leaf in _leaves(value)):
            place = "validation_data=" if name == "validation_data" else ""
            raise ValueError(
                f"{method}: {name} holds data from hvd.shard beside other data. x and y are "
                f"divided together and given as one: "
                f"{method}({place}hvd.shard((x, y), batch_size=32))."
            )


def require_exact_loss(model: Any, data: ShardedData) -> None:
    """Refuse data that does not divide where the loss is no average over rows.

    Raises:
        ValueError: on every rank, with the ways out.
    """
    if not data.source.may_be_uneven(data.sharding):
        return
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in _EXACT_REDUCTIONS:
            if data.sharding.unequal:
                raise ValueError(
                    f"hvd.shard(..., weights=...) gives the ranks unequal rows, and the loss "
                    f"{loss.name!r} has reduction={reduction!r}, which is no average over rows, so "
                    "a batch could not equal that of one process. Use "
                    'reduction="sum_over_batch_size", or leave weights out.'
                )
            raise ValueError(
                f"the data does not divide by the {data.sharding.size} ranks, and the loss "
                f"{loss.name!r} has reduction={reduction!r}, which is no average over rows, so "
                "the last batch of an epoch could not equal that of one process. Use "
                'reduction="sum_over_batch_size", or hvd.shard(..., remainder="drop").'
            )


def require_even_micro_batches(model: Any, data: Any, batch_size: int | None) -> None:
    """Raise if a batch of `fit` can't be divided evenly, where its size is known.

    Raises:
        ValueError: the number of micro-batches, of a pipeline or a layer, does not divide the batch
            size, or the rows of a rank that weights give it.
    """
    kinds = (LayerSplit, PipelineModel)
    splits = [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]
    rows = _rows(data, batch_size) if splits else None
    for layer in splits:
        if isinstance(data, ShardedData) and data.sharding.unequal and layer.micro_batches > 1:
            _require_even_shares(layer, data)
        elif rows is not None and rows % layer.micro_batches:
            raise ValueError(
                f"batches of {rows} rows can't be divided into the micro_batches="
                f"{layer.micro_batches} of {layer.name!r}: choose a batch size that is a multiple "
                "of it. (Only the last batch of an epoch may be shorter.)"
            )


def _require_even_shares(layer: Any, data: ShardedData) -> None:
    """Raise, on every rank, unless the rows of each rank can be divided into micro-batches."""
    if isinstance(data.sharding.shares, MeasuredShares):
        raise ValueError(
            f'weights="measured" gives a rank any number of rows, and {layer.name!r} divides them '
            f"into micro_batches={layer.micro_batches}: give hvd.shard the numbers, as in "
            "weights=[2, 1, 1]."
        )
    rows = data.source.rows_of_step(data.sharding)
    assert rows is not None
    for rank, own in enumerate(data.sharding.deal(rows).counts):
        if own % layer.micro_batches:
            raise ValueError(
                f"by the weights given to hvd.shard, {own} of {rows} rows are those of rank {rank} "
                "(or of the replica of that number), which can't be divided into the micro_batches="
                f"{layer.micro_batches} of {layer.name!r}: choose weights and a batch size that "
                "give each a multiple of it. (Only the last batch of an epoch may be shorter.)"
            )


def require_distributed(model: Any) -> None:
    """Refuse to train a sharded model with an optimizer that does not know it.

    Args:
        model: a compiled model, on every rank.

    Raises:
        ValueError: on every rank: its optimizer is not distributed.
    """
    optimizer = model.optimizer
    if optimizer is None or is_distributed(leading_optimizer(model)):
        return
    for variable in model.trainable_variables:
        if is_sharded(variable) or is_partial(variable):
            raise ValueError(
                f"{variable.path} is divided over the tensor ranks of the mesh, and the optimizer "
                f"({type(optimizer).__name__}) does not know it: wrap it, as in "
                f"hvd.DistributedOptimizer(keras.optimizers.{type(optimizer).__name__}(...))."
            )


def _leaves(value: Any) -> list[Any]:
    """What a structure holds; nothing for arrays and data, which are not looked into."""
    return keras.tree.flatten(value) if isinstance(value, (tuple, list, dict)) else []


def _rows(data: Any, batch_size: int | None) -> int | None:
    """Rows of a full batch; None where only the data knows."""
    if isinstance(data, ShardedData):
        return data.sharding.batch_size
    if isinstance(data, tf.data.Dataset):
        specs = keras.tree.flatten(data.element_spec)
        return next((s.shape[0] for s in specs if s.shape.rank), None)
    arrays = [a for a in keras.tree.flatten(data) if getattr(a, "shape", None)]
    return (batch_size or _DEFAULT_BATCH_SIZE) if arrays else None
