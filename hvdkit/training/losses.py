"""Losses that can't be divided over ranks exactly."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.data.sharded import ShardedData

_EXACT = ("sum_over_batch_size", "mean")


def require_exact_loss(model: Any, data: ShardedData) -> None:
    """Refuse data that does not divide where the loss is no average over rows.

    Raises:
        ValueError: on every rank, with the ways out.
    """
    if not data.source.may_be_uneven(data.sharding):
        return
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if reduction not in _EXACT:
            raise ValueError(
                f"the data does not divide by the {data.sharding.size} ranks, and the loss "
                f"{loss.name!r} has reduction={reduction!r}, which is no average over rows, so "
                "the last batch of an epoch could not equal that of one process. Use "
                'reduction="sum_over_batch_size", or hvd.shard(..., remainder="drop").'
            )
