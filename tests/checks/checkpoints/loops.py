"""Checkpoints of training loops of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import rows, shared_folder
from checks.marks import long

import hvdkit as hvd


def _loop(folder: Path, stop: int | None = None) -> list[np.ndarray] | None:
    keras.utils.set_random_seed(hvd.rank())
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    )
    optimizer = keras.optimizers.Adam(0.01)
    data = hvd.shard(rows(), 4, seed=5)
    hvd.broadcast_variables(model.trainable_variables, 0)
    values: dict[str, Any] | None = hvd.checkpoint.restore(folder, model, optimizer, data=data)
    start = values or {"epoch": 0, "batch": 0, "seen": []}
    seen: list[float] = start["seen"]
    for epoch in range(start["epoch"], 2):
        first = start["batch"] if epoch == start["epoch"] else 0
        for batch, (x, y, weights) in enumerate(data, start=first):
            with tf.GradientTape() as tape:
                error = tf.reduce_mean((model(x, training=True) - y) ** 2, -1)
                loss = tf.reduce_mean(error * weights)
            gradients = hvd.DistributedGradientTape(tape).gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            seen.append(float(hvd.allreduce(loss)))
            if batch % 2 == 1:
                state = {"epoch": epoch, "batch": batch + 1, "seen": seen}
                hvd.checkpoint.save(
                    folder, model, optimizer, values=state, data=data, batch=batch + 1 - first
                )
            if len(seen) == stop:
                return None
    return [*model.get_weights(), np.array(seen)]


@long
def check_loop_goes_on() -> None:
    never, folder = _loop(shared_folder()), shared_folder()
    for stop in (3, 4, 8):
        assert _loop(folder, stop) is None
    for mine, theirs in zip(_loop(folder) or [], never or [], strict=True):
        np.testing.assert_array_equal(mine, theirs)
