"""Data as Keras's examples make it: folders of images and texts, windows of a series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checks.real_models.devices  # noqa: F401  (before TensorFlow starts)
import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import shared_folder
from checks.real_models.weights import densified, take_pretrained_weights
from checks.reference import same_on_all_ranks

import hvdkit as hvd

layers = keras.layers
BATCH = 6
TEXTS = ["good and short", "bad", "a good film", "so bad, so long", "good, not bad", "bad acting"]


def require_same_training(
    build: Callable[[], keras.Model], data: Callable[[], Any], loss: str, *, rtol: float = 1e-3
) -> None:
    """A training on the ranks' parts of a batched dataset is that of one process on all of it.

    Args:
        build: makes the model.
        data: makes the dataset, whose batches are those of one process.
        loss: the loss.
        rtol: relative tolerance.
    """

    def compiled(seed: int, wrap: Callable[[Any], Any]) -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = build()
        assert model.built
        take_pretrained_weights(model, seed)
        model.compile(wrap(keras.optimizers.Adam(0.01)), loss, metrics=["mae"])
        return model

    reference = compiled(1, densified)
    expected = reference.fit(data(), epochs=2, verbose=0, validation_data=data()).history
    model = compiled(1 if hvd.rank() == 0 else 50, hvd.DistributedOptimizer)

    def part() -> Any:
        tf.random.set_seed(1)  # takes part in a shuffle, and the ranks were given others
        return hvd.shard(data(), batch_size=BATCH // hvd.size())

    history = model.fit(
        part(),
        epochs=2,
        verbose=0,
        validation_data=part(),
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
    ).history
    same_on_all_ranks(model)
    assert set(history) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol, 1e-4, err_msg=name)
    for mine, variable in zip(model.get_weights(), reference.weights, strict=True):
        np.testing.assert_allclose(mine, variable.numpy(), rtol, 1e-4, err_msg=variable.path)
    np.testing.assert_allclose(
        model.predict(part(), verbose=0), reference.predict(data(), verbose=0), rtol, 1e-4
    )


def filled(write: Callable[[Path, int], None], rows: int) -> Path:
    """A folder that all ranks know, in which rank 0 has put files of two classes."""
    folder = shared_folder()
    if hvd.rank() == 0:
        for row in range(rows):
            place = folder / ("first" if row % 2 else "second")
            place.mkdir(exist_ok=True)
            write(place / f"{row:03}", row)
    hvd.barrier()
    return folder


def check_a_folder_of_images() -> None:
    def write(path: Path, row: int) -> None:
        picture = np.random.default_rng(row).uniform(0, 155, size=(12, 10, 3)) + 100 * (row % 2)
        keras.utils.save_img(path.with_suffix(".png"), picture, scale=False)

    folder = filled(write, 3 * BATCH + 5)

    def data() -> tf.data.Dataset:
        return keras.utils.image_dataset_from_directory(
            folder, image_size=(8, 8), batch_size=BATCH, seed=3, verbose=False
        )

    def build() -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(4, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(1, "sigmoid"),
            ]
        )

    require_same_training(build, data, "binary_crossentropy")
    first, second = (
        keras.utils.image_dataset_from_directory(
            folder,
            image_size=(8, 8),
            batch_size=BATCH,
            seed=3,
            validation_split=0.3,
            subset=subset,
            verbose=False,
        )
        for subset in ("training", "validation")
    )
    counts = [
        hvd.allreduce(
            sum(len(batch[0]) for batch in hvd.shard(part, 2, remainder="drop")), op=hvd.Sum
        )
        for part in (first, second)
    ]
    # Of the 6 rows for validation 2 are no batch of both ranks.
    assert counts == [16, 4], counts


def check_a_folder_of_texts() -> None:
    """The texts become numbers while they are read, with a vocabulary learned from them."""
    folder = filled(
        lambda path, row: path.with_suffix(".txt").write_text(TEXTS[row % len(TEXTS)]),
        3 * BATCH + 3,
    )
    texts = keras.utils.text_dataset_from_directory(
        folder, batch_size=BATCH, shuffle=False, verbose=False
    )
    vectorize = layers.TextVectorization(max_tokens=12, output_sequence_length=5)
    vectorize.adapt(texts.map(lambda text, label: text))

    def data() -> tf.data.Dataset:
        return texts.map(lambda text, label: (vectorize(text), label)).cache().prefetch(2)

    def build() -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((5,), dtype="int64"),
                layers.Embedding(12, 4),
                layers.Conv1D(4, 2, activation="relu"),
                layers.GlobalMaxPooling1D(),
                layers.Dense(1, "sigmoid"),
            ]
        )

    require_same_training(build, data, "binary_crossentropy")


def check_texts_inside_the_model() -> None:
    """The same, with the text as the model's input."""
    texts = np.array(TEXTS * 3 + TEXTS[:3])
    labels = np.array(["good" in text for text in texts], "float32")[:, None]

    def data() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((texts, labels)).batch(BATCH)

    def build() -> keras.Model:
        vectorize = layers.TextVectorization(max_tokens=12, output_sequence_length=5)
        vectorize.adapt(np.random.permutation(texts))
        x = keras.Input((), dtype="string")
        hidden = layers.GlobalAveragePooling1D()(layers.Embedding(12, 4)(vectorize(x)))
        return keras.Model(x, layers.Dense(1, "sigmoid")(hidden))

    require_same_training(build, data, "binary_crossentropy")


def check_windows_of_a_series() -> None:
    series = np.sin(np.arange(40, dtype="float32") / 3)[:, None]

    def data() -> tf.data.Dataset:
        return keras.utils.timeseries_dataset_from_array(
            series, series[8:, 0], sequence_length=8, batch_size=BATCH, shuffle=True, seed=5
        )

    def build() -> keras.Model:
        return keras.Sequential(
            [keras.Input((8, 1)), layers.LSTM(5), layers.Dense(3, "relu"), layers.Dense(1)]
        )

    require_same_training(build, data, "mse")


def check_pictures_that_are_augmented_while_they_are_read() -> None:
    """What is drawn for a row may differ; here it is nothing, and the layers stay in the map."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(3 * BATCH + 5, 8, 8, 3)).astype("float32")
    y = x.mean((1, 2, 3))[:, None]
    augment = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])

    def data() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
        return dataset.map(lambda a, b: (a + 0 * augment(a, training=True), b))

    def build() -> keras.Model:
        return keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(1)]
        )

    require_same_training(build, data, "mse")
