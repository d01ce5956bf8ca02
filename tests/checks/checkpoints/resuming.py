"""A training that was stopped at any step ends like one that was never stopped."""

from __future__ import annotations

import keras
import numpy as np
from checks.checkpoints.runs import (
    build,
    never_stopped,
    require_same_end,
    rows,
    shared_folder,
    train,
)
from checks.marks import long

import hvdkit as hvd


@long
def check_stopped_at_random_steps() -> None:
    rng = np.random.default_rng(hvd.size())
    folder = shared_folder()
    for stop in (1, int(rng.integers(2, 5))):
        assert train(folder, stop=stop) is None
    require_same_end(never_stopped(), train(folder))
    # It is finished, so to start it again changes nothing.
    require_same_end(never_stopped(), train(folder))


@long
def check_saved_between_epochs() -> None:
    options = {"save_freq": "epoch", "validation_data": hvd.shard(rows(), 4)}
    never, folder = train(shared_folder(), **options), shared_folder()
    assert train(folder, stop=7, **options) is None
    require_same_end(never, train(folder, **options))


@long
def check_state_of_optimizers() -> None:
    """Loss scale, accumulated gradients, moving averages of weights."""

    def model() -> keras.Model:
        keras.config.set_dtype_policy("mixed_float16")
        try:
            inner = keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_momentum=0.8)
            return build(optimizer=inner, distributed={"backward_passes_per_step": 2})
        finally:
            keras.config.set_dtype_policy("float32")

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=5, model=model(), save_freq=3) is None
    require_same_end(never, train(folder, model=model(), save_freq=3))
