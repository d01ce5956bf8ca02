"""Training, validation, evaluation and prediction with unequal shares equal one process."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH, same_on_all_ranks
from checks.sharding.reference import (
    classifier,
    compare,
    compiled,
    global_batches,
    labelled_rows,
)
from checks.unequal.kinds import KINDS, VERY_UNEQUAL, global_batch, weights

import hvdkit as hvd


def _data(extra: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return labelled_rows(3 * global_batch() + extra)


def _compare(kind: str, given: list[int] | None = None, extra: int = 1, **more: Any) -> None:
    x, y = _data(extra)
    compare(global_batches(x, y), KINDS[kind](x, y, weights=weights(given)), **more)


@long
def check_arrays_with_validation() -> None:
    test = labelled_rows(global_batch() + 1)
    ours = KINDS["arrays"](*test, weights=weights(VERY_UNEQUAL))
    _compare("arrays", extra=2, validation=(global_batches(*test), ours))


@long
def check_a_rank_with_one_row() -> None:
    _compare("samples", VERY_UNEQUAL)


@long
def check_every_kind_of_data() -> None:
    for kind in KINDS:
        _compare(kind, extra=3)


@long
def check_class_weight() -> None:
    _compare("arrays", fit={"class_weight": {0: 0.5, 1: 2.0, 2: 1.5}})


@long
def check_several_steps_in_one_execution() -> None:
    _compare("arrays", options={"steps_per_execution": 2})


@long
def check_eagerly() -> None:
    _compare("batches", options={"run_eagerly": True}, epochs=1)


@long
def check_compiled_by_xla() -> None:
    _compare("arrays", options={"jit_compile": True})


@long
def check_rows_with_weights_of_their_own() -> None:
    x, y = _data()
    own = np.linspace(0.5, 2, len(x)).astype("float32")
    sharded = hvd.shard((x, y, own), BATCH, shuffle=False, weights=weights())
    compare(global_batches(x, y, own), sharded)


@long
def check_data_without_an_end() -> None:
    x, y = _data(0)
    endless = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    compare(
        endless.batch(global_batch()),
        hvd.shard(endless, BATCH, weights=weights()),
        fit={"steps_per_epoch": 2},
        epochs=3,
    )


def _trained(model: keras.Model, optimizer: Any, data: Any) -> list[np.ndarray]:
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(data, epochs=2, verbose=0)
    return model.get_weights()


@long
def check_accumulated_clipped_and_normalized_over_all_rows() -> None:
    """Gradients of two steps, clipped by their norm, of a model that looks at all rows."""
    x, y = _data(0)
    y = y[:, None].astype("float32")

    def build(kind: Any) -> keras.Model:
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Dense(8, activation="tanh"), kind(momentum=0.5)]
        return keras.Sequential([keras.layers.Input((6,)), *layers, keras.layers.Dense(1)])

    options = {"global_clipnorm": 0.1, "gradient_accumulation_steps": 2, "learning_rate": 0.5}
    single = build(keras.layers.BatchNormalization)
    start = single.get_weights()
    expected = _trained(single, keras.optimizers.SGD(**options), global_batches(x, y))
    model = build(hvd.SyncBatchNormalization)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(**options))
    got = _trained(model, optimizer, KINDS["samples"](x, y, weights=weights()))
    same_on_all_ranks(model)
    assert max(np.abs(a - b).max() for a, b in zip(expected, start, strict=True)) > 1e-3
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


@long
def check_evaluate_and_predict() -> None:
    _require_evaluated(["samples"])


@long
def check_evaluate_and_predict_of_every_kind_of_data() -> None:
    _require_evaluated(list(KINDS))


def _require_evaluated(kinds: list[str]) -> None:
    x, y = _data(2)
    model = compiled(classifier(0), hvd.DistributedOptimizer("sgd"))
    expected = model.evaluate(global_batches(x, y), return_dict=True, verbose=0)
    rows = model.predict(x, verbose=0)
    for name in kinds:
        for given in (weights(), weights(VERY_UNEQUAL)):
            sharded = KINDS[name](x, y, weights=given)
            result = model.evaluate(sharded, return_dict=True, verbose=0)
            for log, value in expected.items():
                np.testing.assert_allclose(result[log], value, rtol=1e-5, err_msg=f"{name} {log}")
            predicted = model.predict(sharded, verbose=0)
            np.testing.assert_allclose(predicted, rows, rtol=1e-5, atol=1e-6, err_msg=name)


@long
def check_a_loop_of_ones_own() -> None:
    x, y = _data(2)

    def steps(model: keras.Model, optimizer: Any, data: Any, tape_of: Any) -> None:
        loss_fn = keras.losses.SparseCategoricalCrossentropy()
        for bx, by, *scale in data:
            with tf.GradientTape() as tape:
                loss = loss_fn(by, model(bx, training=True), sample_weight=(*scale, None)[0])
            gradients = tape_of(tape).gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    single, model = classifier(0), classifier(0)
    steps(single, keras.optimizers.Adam(0.02), global_batches(x, y), lambda tape: tape)
    data = KINDS["arrays"](x, y, weights=weights())
    steps(model, keras.optimizers.Adam(0.02), data, hvd.DistributedGradientTape)
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


class OwnStep(keras.Model):
    """A model with a step of its own, whose gradients a tape exchanges."""

    tape_of: Any = staticmethod(lambda tape: tape)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._inner = classifier(seed)

    def call(self, x: Any) -> Any:
        return self._inner(x)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = type(self).tape_of(tape).gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class OwnExchangedStep(OwnStep):
    tape_of = staticmethod(hvd.DistributedGradientTape)


@long
def check_a_step_of_ones_own_with_a_tape() -> None:
    x, y = _data(2)
    single, model = OwnStep(0), OwnExchangedStep(0)
    for one, data in (
        (single, global_batches(x, y)),
        (model, KINDS["arrays"](x, y, weights=weights())),
    ):
        one.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
        alone = hvd.callbacks.ConsistencyCheck(at_start=False)
        one.fit(data, verbose=0, callbacks=[alone])
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


@long
def check_other_ways_to_exchange() -> None:
    """Those that equal one process with equal shares do so with unequal ones."""
    x, y = _data(0)

    def trained(optimizer: Any, data: Any) -> list[np.ndarray]:
        model = compiled(classifier(0), optimizer)
        model.fit(data, epochs=2, verbose=0)
        return model.get_weights()

    expected = trained(keras.optimizers.Adam(0.02), global_batches(x, y))
    for exchange in (hvd.exchange.AllReduce(), hvd.exchange.Sharded()):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.02), exchange=exchange)
        got = trained(optimizer, KINDS["arrays"](x, y, weights=weights()))
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(
                mine, theirs, rtol=1e-3, atol=1e-4, err_msg=type(exchange).__name__
            )
