"""What each way to make a model smaller costs and gives: size, accuracy, time.

    python benchmarks/compress.py
    python benchmarks/compress.py --epochs 40 --seed 2

A transformer learns scikit-learn's digits, whose 8 rows of pixels are its words. It is then made
smaller in each way of `hvd.compress`, and in several. Sizes are those of the `.keras` file, and of
it with gzip, which finds the zeros; the accuracy is that of 360 images that no model was trained
on; the time is the median of one image at a time on one core, in a graph.
"""

from __future__ import annotations

import gzip
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import hvdkit as hvd
from hvdkit.compress import Cubic, Distiller, Heads, Neurons, Pruning, Weights

TEST_ROWS = 360
BATCH = 32
BLOCKS, WIDTH, HEADS, INNER = 4, 64, 4, 256
TIMED = 300


@click.command()
@click.option("--epochs", default=30, help="Epochs of each training.")
@click.option("--seed", default=1, help="Of weights and of the order of rows.")
def main(epochs: int, seed: int) -> None:
    """Train, make smaller, compare."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    hvd.init()
    hvd.set_random_seed(seed)
    trials = Trials(epochs, seed)
    table = Table("model", "parameters", "file kB", "gzip kB", "accuracy %", "ms an image")
    for name, make in trials.all():
        table.add_row(name, *_measured(make(), trials.test))
    Console().print(table)


class Trials:
    """The data, the teacher, and what becomes of it.

    Args:
        epochs: of each training.
        seed: of the order of rows.
    """

    def __init__(self, epochs: int, seed: int) -> None:
        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        x, y = (digits.images[order] / 16).astype("float32"), digits.target[order]
        self.test = x[:TEST_ROWS], y[:TEST_ROWS]
        self.rows = hvd.shard((x[TEST_ROWS:], y[TEST_ROWS:]), batch_size=BATCH, seed=seed)
        self.epochs = epochs
        self.steps = epochs * (len(x[TEST_ROWS:]) // BATCH)
        self.teacher = self._trained(transformer(BLOCKS))

    def all(self) -> list[tuple[str, Callable[[], keras.Model]]]:
        """The ways to make it smaller, with what makes them."""
        return [
            ("float32", lambda: self.teacher),
            ("half of the blocks, trained on labels", lambda: self._trained(self._student())),
            ("half of the blocks, distilled", self._distilled),
            ("80 % of the weights pruned", lambda: self._pruned(0.8, Weights())),
            ("half of neurons and heads, shrunk", self._shrunk),
            ("int8", lambda: self._quantized(self.teacher, "int8")),
            ("int4", lambda: self._quantized(self.teacher, "int4")),
            ("distilled, shrunk", lambda: self._shrunk(self._distilled())),
            (
                "distilled, shrunk, int8",
                lambda: self._quantized(self._shrunk(self._distilled()), "int8"),
            ),
        ]

    def _student(self) -> keras.Model:
        return hvd.compress.student_of(self.teacher)

    def _distilled(self) -> keras.Model:
        distiller = Distiller(self.teacher, self._student(), temperature=4.0, hard_weight=0.1)
        self._trained(distiller)
        return distiller.student

    def _pruned(self, sparsity: float, *units: Any, model: Any = None) -> keras.Model:
        model = _copy(self.teacher) if model is None else model
        schedule = Cubic(sparsity, end=self.steps // 2, every=20)
        return self._trained(model, *(Pruning(schedule, one) for one in units))

    def _shrunk(self, model: keras.Model | None = None) -> keras.Model:
        return hvd.compress.shrink(self._pruned(0.5, Neurons(), Heads(), model=model))

    def _quantized(self, model: keras.Model, mode: str) -> keras.Model:
        model = _copy(model)
        hvd.compress.quantize(model, mode)
        return model

    def _trained(self, model: keras.Model, *callbacks: Any) -> keras.Model:
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        model.fit(self.rows, epochs=self.epochs, verbose=0, callbacks=list(callbacks))
        return model


def transformer(blocks: int) -> keras.Model:
    """A transformer over the rows of an image, which gives logits."""
    layers = keras.layers
    image = keras.Input((8, 8))
    # One row of kernels for each place: so the model knows where a row of pixels stands.
    x = layers.EinsumDense("bij,ijk->bik", (8, WIDTH), bias_axes="ik")(image)
    for _ in range(blocks):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x)
        x = layers.LayerNormalization()(x + attention)
        inner = layers.Dropout(0.1)(layers.Dense(INNER, activation="gelu")(x))
        x = layers.LayerNormalization()(x + layers.Dense(WIDTH)(inner))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def _copy(model: keras.Model) -> keras.Model:
    """A model of the same weights, not compiled."""
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _measured(model: keras.Model, test: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """A row of the table."""
    x, y = test
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        # Some were trained, and would be saved with their optimizers.
        (_copy(model) if model.compiled else model).save(file)
        loaded = keras.models.load_model(file, compile=False)
        size, packed = file.stat().st_size, len(gzip.compress(file.read_bytes()))
    run = tf.function(lambda image: loaded(image, training=False), jit_compile=False)
    seconds = []
    for i in range(TIMED):
        image = tf.constant(x[i % len(x)][None])
        start = time.perf_counter()
        run(image).numpy()
        seconds.append(time.perf_counter() - start)
    right = np.asarray(loaded(x)).argmax(-1) == y
    return [
        f"{loaded.count_params():,}",
        f"{size / 1e3:,.0f}",
        f"{packed / 1e3:,.0f}",
        f"{100 * right.mean():.1f}",
        f"{1e3 * statistics.median(seconds[20:]):.2f}",
    ]


if __name__ == "__main__":
    main()
