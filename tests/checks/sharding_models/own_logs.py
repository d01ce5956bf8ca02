"""Steps of one's own: what they return is over the rows of all ranks, or said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.hearing import heard
from checks.marks import long
from checks.reference import BATCH, data, mlp
from checks.sharding.reference import global_batches, number_of_rows

import hvdkit as hvd

_EXTRA = 2


class _Steps(keras.Model):
    """A functional model whose steps call `logs_of`."""

    def _forward(self, batch: Any, training: bool) -> tuple[Any, Any]:
        x, y = batch
        p = self(x, training=training)
        return p, self.compute_loss(x=x, y=y, y_pred=p)

    def train_step(self, batch: Any) -> Any:
        with tf.GradientTape() as tape:
            p, loss = self._forward(batch, True)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self.logs_of(batch, p, loss)

    def test_step(self, batch: Any) -> Any:
        return self.logs_of(batch, *self._forward(batch, False))

    def logs_of(self, batch: Any, p: Any, loss: Any) -> Any:
        raise NotImplementedError


class Guide(_Steps):
    """As in Keras 3's guide: a dict inside a dict."""

    def logs_of(self, batch: Any, p: Any, loss: Any) -> Any:
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(batch[1], p)
        return {metric.name: metric.result() for metric in self.metrics}


class Trackers(_Steps):
    """As in Keras's autoencoder: trackers with other names than the logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.total_tracker = keras.metrics.Mean(name="total_loss")
        self.by_rows = keras.metrics.Mean(name="by_rows")
        self.traced = keras.metrics.Mean(name="traced")
        self.largest = [keras.metrics.Mean(name="rows"), keras.metrics.Sum(name="sum_of_rows")]

    @tf.function
    def _track(self, loss: Any) -> None:
        """A function that is traced for itself, once for all steps."""
        self.traced.update_state(loss)

    @property
    def metrics(self) -> list[Any]:
        return [self.total_tracker, self.by_rows, self.traced, *self.largest]

    def logs_of(self, batch: Any, p: Any, loss: Any) -> Any:
        self.total_tracker.update_state(loss)
        self._track(loss)
        errors = keras.ops.mean(keras.ops.abs(batch[1] - p), -1)
        self.by_rows.update_state(errors)
        self.largest[0].update_state(loss, sample_weight=tf.shape(p)[0])
        self.largest[1].update_state(errors)
        return {
            "loss": self.total_tracker.result(),
            "error": self.by_rows.result(),
            "weighted": self.largest[0].result(),
            "sum": self.largest[1].result(),
        }


class Inner(_Steps):
    """Trackers of a compiled model that is an attribute, two of them of what is no mean."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.critic = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
        self.critic.compile(loss="mse", metrics=[keras.metrics.MeanAbsoluteError(name="mae")])
        self.critic.mean = keras.metrics.Mean(name="mean_of_critic")
        self.ratio = keras.metrics.Mean(name="a_ratio")
        self.root = keras.metrics.Mean(name="a_root")

    def logs_of(self, batch: Any, p: Any, loss: Any) -> Any:
        rows = tf.cast(tf.shape(p)[0], "float32")
        squares = tf.reduce_sum(tf.square(p))
        self.critic.mean.update_state(0.5 * squares / rows + 3 * loss + 1.0)
        self.ratio.update_state(squares / (tf.reduce_sum(tf.abs(batch[1])) + 1e-7))
        self.root.update_state(tf.sqrt(squares / rows))
        inside = {"mean": self.critic.mean.result(), "plain": loss}
        return {"critic": inside, "ratio": self.ratio.result(), "root": self.root.result()}


class Entry(keras.Sequential):
    """Keras's own steps, and entries besides."""

    def _more(self, logs: Any, batch: Any) -> Any:
        rate = tf.cast(hvd.rank() + 1, tf.float32)
        own = {"one": 1.0, "rank": rate, "text": "abc", "mine": tf.constant([1.0, 2.0]) * rate}
        return {**logs, **own}

    def train_step(self, batch: Any) -> Any:
        return self._more(super().train_step(batch), batch)

    def test_step(self, batch: Any) -> Any:
        return self._more(super().test_step(batch), batch)


class Computed(keras.Sequential):
    """compute_metrics and get_metrics_result of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = keras.metrics.MeanAbsoluteError(name="own")

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self.own.update_state(y, y_pred)
        return {**results, "own": self.own.result(), "double": 2 * self.own.result()}

    def get_metrics_result(self) -> Any:
        results = super().get_metrics_result()
        return {**results, "double": 2 * self.own.result()}


def functional(cls: type) -> Any:
    def build() -> keras.Model:
        model = mlp(0)
        return cls(model.inputs, model.outputs)

    return build


def sequential(cls: type) -> Any:
    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        return cls([keras.Input((6,)), keras.layers.Dense(2)])

    return build


def _mae() -> list[Any]:
    return ["mae", keras.metrics.R2Score(name="r2")]


def compare(
    build: Any,
    differing: tuple[str, ...] = (),
    metrics: Callable[[], list[Any] | None] = _mae,
    **options: Any,
) -> list[str]:
    """Train and validate over ranks and in one process; returns what was said."""
    x, y = data(number_of_rows(_EXTRA))
    vx, vy = data(hvd.size() * BATCH + 1, seed=1)

    def compiled(optimizer: Any) -> keras.Model:
        model = build()
        model.compile(optimizer=optimizer, loss="mse", metrics=metrics(), **options)
        return model

    single = compiled(keras.optimizers.SGD(0.1))
    expected = single.fit(
        global_batches(x, y), validation_data=global_batches(vx, vy), epochs=2, verbose=0
    ).history
    model = compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    with heard() as texts:
        history = model.fit(
            hvd.shard((x, y), BATCH, shuffle=False),
            validation_data=hvd.shard((vx, vy), BATCH),
            epochs=2,
            verbose=0,
        ).history
        evaluated = model.evaluate(hvd.shard((vx, vy), BATCH), verbose=0)
    everyone = hvd.allgather_object((repr(history), repr(evaluated)))
    assert len(set(everyone)) == 1, everyone
    assert set(history) == set(expected)
    for name, values in expected.items():
        if name.removeprefix("val_") not in differing:
            if np.asarray(values).dtype.kind == "f":
                np.testing.assert_allclose(
                    history[name], values, rtol=1e-4, atol=1e-6, err_msg=name
                )
            else:
                assert history[name] == values
    return texts


@long
def check_nested_logs() -> None:
    assert not compare(functional(Guide))


@long
def check_trackers_of_a_model() -> None:
    assert not compare(functional(Trackers))


@long
def check_trackers_inside_and_what_is_no_mean() -> None:
    texts = compare(functional(Inner), differing=("ratio", "root"), metrics=lambda: None)
    names = ["critic/plain", "a_ratio", "a_root"] if hvd.rank() == 0 and hvd.size() > 1 else []
    assert sorted(text.split()[3] for text in texts) == sorted(names), texts


@long
def check_entries_besides_the_metrics() -> None:
    texts = compare(sequential(Entry), differing=("rank", "mine"))
    assert [t.split()[3] for t in texts] == (
        ["rank", "mine"] if hvd.rank() == 0 and hvd.size() > 1 else []
    ), texts


@long
def check_metrics_that_a_model_computes_itself() -> None:
    assert not compare(sequential(Computed))
