"""Bad input that a rank can catch: the same error on every rank, and the ranks go on."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import hvdkit as hvd


def _refused(call: Callable[[], Any], error: Any, *texts: str) -> None:
    """Assert that a call fails on every rank with the same text, which holds these."""
    with pytest.raises(error) as raised:
        call()
    said = hvd.allgather_object(str(raised.value))
    assert said == [said[0]] * hvd.size(), said
    for text in texts:
        assert text in said[0], said[0]


class OneBatch(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((4, 2)), np.ones((4, 1))


def check_batch_sizes_that_are_none() -> None:
    rows = np.ones((8, 2))
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    positive = "batch_size is a positive number of rows, not "
    for data, batch_size, on_rank, text in (
        (rows, -4, 0, f"{positive}-4"),
        (rows, 2.5, 0, f"{positive}2.5"),
        (rows, None, 0, "hvd.shard needs batch_size"),
        (rows, -1 if hvd.rank() == 1 else 2, 1, f"{positive}-1"),
        (dataset, 0, 0, f"{positive}0"),
        (rows, 0, 0, f"{positive}0"),
    ):
        kinds = (ValueError, TypeError)
        _refused(lambda d=data, b=batch_size: hvd.shard(d, b), kinds, f"on rank {on_rank}", text)


def check_data_with_fewer_rows_than_ranks() -> None:
    few = np.ones((hvd.size() - 1, 2))
    text = f"the data has {hvd.size() - 1} rows, fewer than the {hvd.size()} ranks"
    for data in (few, tf.data.Dataset.from_tensor_slices(few)):
        _refused(lambda data=data: hvd.shard(data, 2), ValueError, "on rank 0", text)
    one = f"the PyDataset has 1 batches, fewer than the {hvd.size()} ranks"
    _refused(lambda: hvd.shard(OneBatch()), ValueError, one)


def check_optimizers_that_are_not_of_keras_3() -> None:
    keras_2 = type("Adam", (), {"__module__": "tf_keras.src.optimizers.adam"})
    own = type("Mine", (keras_2,), {"__module__": "my_script"})
    first = tf.compat.v1.train.GradientDescentOptimizer(0.1)
    is_old = "is an optimizer of Keras 2"
    for optimizer, text in (
        (keras_2(), f"tf_keras.src.optimizers.adam.Adam {is_old}"),
        (keras_2(), "use the one of the same name in keras.optimizers"),
        (own(), f"my_script.Mine {is_old} or TensorFlow 1"),
        (first, "tensorflow.python"),
        (None, "DistributedOptimizer takes a Keras 3 optimizer"),
        ("adamm", "adamm"),
    ):
        kinds = (TypeError, ValueError)
        _refused(lambda o=optimizer: hvd.DistributedOptimizer(o), kinds, text)


def check_files_that_are_no_models() -> None:
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    text, empty, directory, broken, old, missing = (
        folder / name
        for name in ("a.keras", "b.keras", "c.keras", "d.keras", "e.h5", "missing.keras")
    )
    if hvd.rank() == 0:
        text.write_text("no model")
        old.write_text("no model")
        directory.mkdir()
        for path, names in ((empty, ["readme.txt"]), (broken, ["config.json", "metadata.json"])):
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, "{}")
    hvd.barrier()
    for path, said in (
        (missing, "there is no file {}"),
        (empty, "{} is not a Keras model: it holds no config.json"),
        (directory, "{} is a folder"),
        (broken, "{} can't be loaded as a Keras model"),
        (old, "{} is not a Keras model"),
        (text, "{} is not a Keras model: it is not a .keras (zip) file"),
    ):
        kinds = (FileNotFoundError, ValueError)
        _refused(lambda path=path: hvd.load_model(path), kinds, said.format(path))


def check_models_whose_shapes_differ() -> None:
    units = 3 if hvd.rank() == 1 else 2
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(units)])
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse")
    start = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)]
    x, y = np.ones((8, 4)), np.ones((8, units))
    with pytest.raises(hvd.RankMismatchError, match=r"differ between ranks") as raised:
        model.fit(x, y, batch_size=4, verbose=0, callbacks=start)
    assert re.search(
        r"float32 \(4, 2\) on rank 0, but float32 \(4, 3\) on rank 1", str(raised.value)
    )
