"""Models that can't be built by calling them: without call, or with data of another form."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import data, same_on_all_ranks

import hvdkit as hvd

L = keras.layers
START = hvd.callbacks.BroadcastGlobalVariablesCallback


class WithoutCall(keras.Model):
    """Keras's DCGAN example has no call either. Its layers are not built."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = L.Dense(4), L.Dense(2), L.Dense(3)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.forward(x) - y) ** 2)
        weights = [*self.first.trainable_variables, *self.second.trainable_variables]
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


class OtherData(WithoutCall):
    """Its call takes something else than the data holds, and would build other weights of it."""

    def call(self, noise: Any) -> Any:
        return self.second(self.first(noise))

    def forward(self, x: Any) -> Any:
        return self.call(tf.concat([x, x], axis=1))


class NeedsNumbers(WithoutCall):
    """Looks at numbers, as eager code may; nothing can be built before the first step."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) if float(tf.reduce_sum(x)) else x


class NeedsNumbersInCall(keras.Model):
    """The same with Keras's own step."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(x) if float(tf.reduce_sum(x)) else x


class _Before(keras.callbacks.Callback):
    """Whether the model had its variables before the first step."""

    had: bool | None = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.had is None:
            self.had = bool(self.model.variables)


def _fit(model: keras.Model, *, sharded: bool) -> bool | None:
    x, y = data(16)
    before = _Before()
    options: dict[str, Any] = {"verbose": 0, "callbacks": [START(0), before]}
    if sharded:
        model.fit(hvd.shard((x, y), 4), **options)
    else:
        own = slice(hvd.rank(), None, hvd.size())
        model.fit(x[own][:5], y[own][:5], batch_size=4, **options)
    same_on_all_ranks(model)
    return before.had


@long
def check_models_are_built_by_their_own_step() -> None:
    for cls, columns in ((WithoutCall, 6), (OtherData, 12)):
        keras.utils.set_random_seed(hvd.rank())
        model = cls()
        model.compile(hvd.DistributedOptimizer("adam"))
        assert _fit(model, sharded=cls is WithoutCall), "built before the first step"
        assert model.first.kernel.shape == (columns, 4)
        assert not model.unused.built


@long
def check_models_that_need_numbers_are_sent_after_the_first_step() -> None:
    for model in (NeedsNumbers(), NeedsNumbersInCall()):
        keras.utils.set_random_seed(hvd.rank())
        model.compile(hvd.DistributedOptimizer("adam"), "mse", run_eagerly=True)
        assert _fit(model, sharded=True) is False


@long
def check_a_layer_that_is_not_used_does_not_matter() -> None:
    """It is never built, which says nothing about the others."""

    class Unused(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.unused = L.Dense(2), L.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    keras.utils.set_random_seed(hvd.rank())
    model = Unused()
    model.compile(hvd.DistributedOptimizer("adam"), "mse")
    assert _fit(model, sharded=True)
    start = np.array(model.dense.kernel)
    _fit(model, sharded=True)
    assert not np.array_equal(start, model.dense.kernel)
