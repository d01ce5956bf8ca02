"""The batch of a `fit`, divided: on more ranks, all together then have the rows that fewer had."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from hvdkit.data.sharded import ShardedData
from hvdkit.training.features import Call

_DEFAULT_BATCH_SIZE = 32  # Keras's


def divide_batch(call: Call, by: int) -> str | None:
    """Give this rank an equal part of the rows that it would have in a batch.

    Args:
        call: of `fit`; its data changes.
        by: how many parts there are.

    Returns:
        Why that can't be done; None if it is.
    """
    data = call.arguments["x"]
    if isinstance(data, ShardedData):
        divided = _divided(data, by)
        if isinstance(divided, str):
            return divided
        call.arguments["x"] = divided
        return None
    leaves = keras.tree.flatten(data)
    if not leaves or not all(getattr(leaf, "shape", None) for leaf in leaves):
        return f"fit got data whose batches the script makes itself ({type(data).__name__})"
    rows = call.arguments["batch_size"] or _DEFAULT_BATCH_SIZE
    if rows % by:
        return f"the batch_size={rows} of fit can't be divided by {by}"
    call.arguments["batch_size"] = rows // by
    return None


def _divided(data: ShardedData, by: int) -> ShardedData | str:
    """The data with fewer rows of a rank in a batch; or why there is none."""
    source: Any = data.source
    batching = getattr(source, "batching", None)
    rows = data.sharding.batch_size or getattr(batching, "rows", None)
    if rows is None:
        return "hvd.shard got data that makes its batches itself"
    if rows % by:
        return f"the {rows} rows of a rank in a batch can't be divided by {by}"
    sharding = replace(data.sharding, batch_size=rows // by)
    try:
        source.check(sharding)
    except ValueError as error:
        return str(error)
    if source.place_after(sharding, 1) != sharding.size * rows // by:
        return "hvd.shard got batches that can't be cut, or fewer rows than a batch has"
    divided = ShardedData(source, sharding, data.process_set)
    divided.epoch = data.epoch
    return divided
