"""Ranks that hold the same variables are made to agree, and are compared."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.marks import long
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd
from hvdkit.mesh.layout import is_sharded

from . import made


class _Changes(keras.callbacks.Callback):
    """One rank changes one of its variables after the first step."""

    def __init__(self, rank: int, split: bool) -> None:
        super().__init__()
        self.rank, self.split = rank, split

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if hvd.rank() == self.rank and batch == 0:
            mine = [v for v in self.model.trainable_variables if is_sharded(v) == self.split]
            mine[0].assign_add(np.ones(mine[0].shape, "float32"))


def _fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
    model.compile(hvd.DistributedOptimizer("sgd"), loss(True))
    model.fit(hvd.shard(text(16), 2, shuffle=False), verbose=0, callbacks=list(callbacks))


@long
def check_a_changed_whole_variable_is_named_on_every_rank() -> None:
    for _ in made.each():
        check = hvd.callbacks.ConsistencyCheck(every_n_steps=2)
        last = hvd.size() - 1
        with pytest.raises(hvd.RankMismatchError, match=f"on rank .*{last} .*by at most 1"):
            _fit(made.language_model(1), _Changes(last, split=False), check)


@long
def check_a_changed_part_is_named_on_every_rank() -> None:
    for mesh in made.each():
        if mesh.data == 1 or mesh.tensor == 1:
            continue  # nobody else holds it, or there is none
        check = hvd.callbacks.ConsistencyCheck(every_n_steps=2)
        with pytest.raises(hvd.RankMismatchError, match=r"on rank .*1 .*by at most 1"):
            _fit(made.language_model(1), _Changes(1, split=True), check)


@long
def check_broadcast_from_the_last_rank() -> None:
    for mesh in made.each():
        if mesh.data == 1:
            continue  # nobody holds the same
        model = made.language_model(1 + mesh.data_index)
        expected = made.whole_weights(made.language_model(mesh.data))  # the last replica's
        model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.0)), loss(True))
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(hvd.size() - 1)
        model.fit(hvd.shard(text(8), 2, shuffle=False), verbose=0, callbacks=[start])
        made.require_weights(model, expected or [], rtol=0, atol=0)
