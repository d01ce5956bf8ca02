"""Checkpoints of one mesh, restored on another."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd

from . import made
from .folders import shared_folder


def _made(seed: int) -> keras.Model:
    """A model that is ready to train, with variables of its optimizer."""
    keras.backend.clear_session()
    model = made.language_model(seed)
    # Names without a number, which are those of a new process.
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01, name="adam")), loss(True))
    model.optimizer.build(model.trainable_variables)
    return model


def _own_values(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in (*model.weights, *model.optimizer.variables)]


@long
def check_a_checkpoint_goes_through_another_mesh_and_back() -> None:
    _goes_through(made.SIZES[hvd.size()][-1])


@long
def check_a_checkpoint_goes_through_all_meshes_and_back() -> None:
    one_kind = [(hvd.size(), 1, 1), (hvd.size() // 4, 1, 4)]  # the model has 4 heads
    _goes_through(*made.SIZES[hvd.size()][1:], *one_kind)


def _goes_through(*others: tuple[int, int, int]) -> None:
    first = made.SIZES[hvd.size()][0]
    with shared_folder() as folder:
        file = folder / "first"
        with made.using(first):
            model = _made(1)
            model.fit(hvd.shard(text(8), 2, shuffle=False), verbose=0)
            expected, own = hvd.broadcast_object(made.whole_weights(model)), _own_values(model)
            hvd.checkpoint.save(file, model, model.optimizer, values={"epoch": 3})
        for number, sizes in enumerate([*others, first]):
            with made.using(sizes):
                model = _made(2 + number)
                values = hvd.checkpoint.restore(file, model, model.optimizer)
                assert values == {"epoch": 3}
                made.require_weights(model, expected, rtol=0, atol=0)
                file = folder / str(number)
                hvd.checkpoint.save(file, model, model.optimizer, values=values)
        for mine, before in zip(_own_values(model), own, strict=True):
            np.testing.assert_array_equal(mine, before)
