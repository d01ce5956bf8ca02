"""Calls that look right and are not: a sentence each, with the remedy, and no array printed."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.data.sharded import ShardedData


def require_data(data: Any) -> None:
    """Refuse what is read once, or divided by somebody else.

    Raises:
        TypeError: it names what to give instead.
    """
    if isinstance(data, ShardedData):
        raise TypeError(
            "the data is from hvd.shard already: give it to fit, evaluate or predict as it is."
        )
    module = type(data).__module__.partition(".")[0]
    if module == "torch":
        raise TypeError(
            f"hvd.shard takes no {type(data).__name__} of torch. Give it the arrays, or a "
            "keras.utils.PyDataset that makes the batches; or let torch divide, by "
            "DistributedSampler(dataset, num_replicas=hvd.size(), rank=hvd.rank()), and give the "
            "DataLoader to fit as it is."
        )
    if isinstance(data, (Iterator, types.FunctionType, types.MethodType)) and not _is_array(data):
        raise TypeError(
            "hvd.shard takes no Python generator, whose length and shapes nobody knows. Make a "
            "dataset of the function that makes it, "
            "tf.data.Dataset.from_generator(function, output_signature=...), or better a "
            "keras.utils.PyDataset, of which each rank loads its own batches only."
        )


def require_batch_size(value: Any) -> None:
    """Refuse y in the place of the batch size, as in `hvd.shard(x, y, 32)`.

    Raises:
        TypeError: it says how x and y are given.
    """
    if _is_array(value) or isinstance(value, (list, tuple, dict, tf.data.Dataset)):
        raise TypeError(
            f"batch_size is a {type(value).__name__}: hvd.shard takes x and y together, as in "
            "hvd.shard((x, y), batch_size=32)."
        )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or keras.ops.is_tensor(value)
