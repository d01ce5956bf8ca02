"""evaluate and predict give what one process gives."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import (
    Batches,
    classifier,
    compiled,
    global_batches,
    labelled_rows,
    number_of_rows,
)

import hvdkit as hvd


def check_evaluate_is_exact_without_callbacks() -> None:
    x, y = labelled_rows(number_of_rows(1))
    model = compiled(classifier(0), hvd.DistributedOptimizer("sgd"))
    expected = model.evaluate(global_batches(x, y), return_dict=True, verbose=0)
    for sharded in (
        hvd.shard((x, y), BATCH),
        hvd.shard(tf.data.Dataset.from_tensor_slices((x, y)), BATCH),
        hvd.shard(Batches(x, y)),
    ):
        result = model.evaluate(sharded, return_dict=True, verbose=0)
        assert set(result) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-5, err_msg=name)
        assert len({tuple(sorted(r.items())) for r in hvd.allgather_object(result)}) == 1


@long
def check_metrics_with_matrices_as_state() -> None:
    x, y = labelled_rows(number_of_rows(1))
    y = (y > 0).astype("float32")[:, None]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(
        loss="binary_crossentropy",
        metrics=["AUC", "Precision", "Recall", keras.metrics.F1Score(threshold=0.5), "R2Score"],
    )
    expected = model.evaluate(global_batches(x, y), return_dict=True, verbose=0)
    result = model.evaluate(hvd.shard((x, y), BATCH), return_dict=True, verbose=0)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@long
def check_predict_in_input_order() -> None:
    x, y = labelled_rows(number_of_rows(1))
    model = compiled(classifier(0), "sgd")
    expected = model.predict(x, verbose=0)
    for sharded in (
        hvd.shard(x, BATCH),
        hvd.shard((x, y), BATCH),
        hvd.shard(tf.data.Dataset.from_tensor_slices(x), BATCH),
        hvd.shard(Batches(x, y)),
    ):
        result = model.predict(sharded, verbose=0, callbacks=[keras.callbacks.Callback()])
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
