"""Rows of a table: numbers that are normalized, and texts that are looked up, inside the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.real_models import files, ways
from checks.real_models.training import ROWS, RealModel

layers = keras.layers
CITIES = ["Lima", "Oslo", "Rome", "Turku"]


def patients() -> tuple[dict[str, Any], np.ndarray]:
    """Columns of numbers, whole numbers and texts, and one of three classes for each row.

    Keras itself takes texts as tensors only.
    """
    rng = np.random.default_rng(0)
    x = {
        "age": rng.normal(50, 15, size=(ROWS, 1)).astype("float32"),
        "pressure": rng.normal(130, 20, size=(ROWS, 1)).astype("float32"),
        "kind": rng.integers(2, 6, size=(ROWS, 1)),
        "city": tf.constant(rng.choice([*CITIES, "elsewhere"], size=(ROWS, 1))),
    }
    return x, ((x["age"][:, 0] > 50) + (x["kind"][:, 0] > 4)).astype("int32")


def model_of_columns() -> keras.Model:
    """What it learns from data before the training differs between ranks that do not agree."""
    inputs = {
        "age": keras.Input((1,), name="age"),
        "pressure": keras.Input((1,), name="pressure"),
        "kind": keras.Input((1,), dtype="int64", name="kind"),
        "city": keras.Input((1,), dtype="string", name="city"),
    }
    normalization = layers.Normalization(name="normalized_age")
    normalization.adapt(np.random.uniform(0, 100, size=(50, 1)))
    known = layers.Normalization(mean=130.0, variance=400.0, name="normalized_pressure")
    kinds = layers.IntegerLookup(
        vocabulary=np.random.permutation([2, 3, 4, 5]), output_mode="one_hot"
    )
    cities = layers.StringLookup(output_mode="one_hot", name="cities")
    cities.adapt(np.repeat(np.random.permutation(CITIES), [8, 6, 4, 2]))
    features = [
        normalization(inputs["age"]),
        known(inputs["pressure"]),
        kinds(inputs["kind"]),
        cities(inputs["city"]),
        layers.Discretization(bin_boundaries=[110.0, 140.0], output_mode="one_hot")(
            inputs["pressure"]
        ),
    ]
    hidden = layers.Dense(8, "relu", name="hidden")(layers.Concatenate()(features))
    return keras.Model(inputs, layers.Dense(3, "softmax", name="class")(hidden))


def model_with_an_embedding_of_cities() -> keras.Model:
    """As in Keras's example of a wide and deep model."""
    inputs = {
        "age": keras.Input((1,), name="age"),
        "pressure": keras.Input((1,), name="pressure"),
        "kind": keras.Input((1,), dtype="int64", name="kind"),
        "city": keras.Input((1,), dtype="string", name="city"),
    }
    numbers = layers.Concatenate(name="numbers")([inputs["age"], inputs["pressure"]])
    normalization = layers.Normalization(name="normalized")
    normalization.adapt(np.random.uniform(0, 200, size=(50, 2)))
    lookup = layers.StringLookup(vocabulary=list(np.random.permutation(CITIES)), name="lookup")
    city = layers.Flatten()(layers.Embedding(5, 3, name="cities")(lookup(inputs["city"])))
    kind = layers.Flatten()(layers.Embedding(6, 2, name="kinds")(inputs["kind"]))
    deep = layers.Concatenate()([normalization(numbers), city, kind])
    for number in range(2):
        deep = layers.Dense(6, "tanh", name=f"deep_{number}")(deep)
    return keras.Model(inputs, layers.Dense(3, "softmax", name="class")(deep))


def compile_model(model: Any, wrap: Any) -> None:
    model.compile(
        wrap(keras.optimizers.Adam(0.01)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
    )


COLUMNS = RealModel(model_of_columns, patients, compile_model)
EMBEDDED = RealModel(model_with_an_embedding_of_cities, patients, compile_model)


def check_columns_over_ranks() -> None:
    ways.over_ranks(COLUMNS)


def check_columns_stopped_and_resumed() -> None:
    ways.stopped_and_resumed(COLUMNS)


def check_columns_split() -> None:
    ways.split_over_devices(COLUMNS)


def check_columns_in_a_pipeline() -> None:
    ways.pipeline(COLUMNS, micro_batches=2, given=True)


def check_columns_in_a_pipeline_from_a_function() -> None:
    ways.pipeline(COLUMNS, micro_batches=2)


def check_embedded_over_ranks() -> None:
    ways.over_ranks(EMBEDDED)


def check_embedded_split() -> None:
    ways.split_over_devices(EMBEDDED, micro_batches=2)


def check_embedded_in_a_pipeline() -> None:
    ways.pipeline(EMBEDDED, micro_batches=3, given=True)


def check_tabular_in_plain_keras() -> None:
    """What the checks before have written."""
    files.require_plain_keras_reads_them()
