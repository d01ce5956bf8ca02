"""Checkpoints of one mesh, restored on another."""

from __future__ import annotations

import keras
import numpy as np
from checks.tensor_parallel.models import loss, text

import hvdkit as hvd

from . import made
from .folders import shared_folder


def _trained(seed: int) -> keras.Model:
    model = made.language_model(seed)
    # Names without a number, which are those of a new process.
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01, name="adam")), loss(True))
    model.fit(hvd.shard(text(8), 2, shuffle=False), verbose=0)
    return model


def _fresh(seed: int) -> keras.Model:
    keras.backend.clear_session()
    return _trained(seed)


def check_each_mesh_goes_on_from_each_other() -> None:
    sizes = [*made.SIZES[hvd.size()], (hvd.size(), 1, 1), (1, 1, hvd.size())]
    written = sizes[:3]
    for old in written:
        with shared_folder() as folder:
            with made.using(old):
                model = _fresh(1)
                expected = hvd.broadcast_object(made.whole_weights(model))
                hvd.checkpoint.save(folder, model, model.optimizer, values={"epoch": 3})
            for new in sizes:
                with made.using(new):
                    model = _fresh(2)
                    values = hvd.checkpoint.restore(folder, model, model.optimizer)
                    assert values == {"epoch": 3}
                    weights = made.whole_weights(model)
                    for mine, other in zip(weights or [], expected, strict=weights is not None):
                        np.testing.assert_array_equal(mine, other)
                    assert int(model.optimizer.iterations) == 8 // (2 * old[0])
