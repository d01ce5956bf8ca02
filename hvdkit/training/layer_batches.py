"""Before training: do the micro-batches of a model divide the batch?"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.sharded import ShardedData
from hvdkit.parallel.devices.layer_split import LayerSplit
from hvdkit.parallel.pipeline.model import PipelineModel

_KERAS_DEFAULT = 32


def require_whole_micro_batches(model: Any, data: Any, batch_size: int | None) -> None:
    """Raise if a batch of `fit` can't be divided evenly, where its size is known.

    Raises:
        ValueError: the number of micro-batches, of a pipeline or a layer, does not divide the batch
            size.
    """
    kinds = (LayerSplit, PipelineModel)
    splits = [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]
    rows = _rows(data, batch_size) if splits else None
    for layer in splits:
        if rows is not None and rows % layer.micro_batches:
            raise ValueError(
                f"batches of {rows} rows can't be divided into the micro_batches="
                f"{layer.micro_batches} of {layer.name!r}: choose a batch size that is a multiple "
                "of it. (Only the last batch of an epoch may be shorter.)"
            )


def _rows(data: Any, batch_size: int | None) -> int | None:
    """Rows of a full batch; None where only the data knows."""
    if isinstance(data, ShardedData):
        return data.sharding.batch_size
    if isinstance(data, tf.data.Dataset):
        specs = keras.tree.flatten(data.element_spec)
        return next((s.shape[0] for s in specs if s.shape.rank), None)
    arrays = [a for a in keras.tree.flatten(data) if getattr(a, "shape", None)]
    return (batch_size or _KERAS_DEFAULT) if arrays else None
