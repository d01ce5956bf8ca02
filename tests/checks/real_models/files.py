"""Files that models leave behind: weights for the undivided model, and models for plain Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import shared_folder
from checks.real_models.training import RealModel, Trained

import hvdkit as hvd

READ_BY_PLAIN_KERAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
for name in sys.argv[2:]:
    __import__(name)
assert "hvdkit" not in sys.modules
for path in json.load(open(sys.argv[1])):
    model = keras.saving.load_model(path + ".keras")
    given = np.load(path + ".npz")
    x = {name: given[name] for name in given.files if name != "predictions"}
    x = {name: tf.constant(v) if v.dtype.kind in "SU" else v for name, v in x.items()}
    found = model.predict(x if "x" not in x else x["x"], verbose=0)
    np.testing.assert_allclose(found, given["predictions"], 1e-3, 1e-4, err_msg=path)
    print("plain Keras has read", path)
"""
_written: list[str] = []


def write(real: RealModel, trained: Trained, build: Callable[[], Any] | None = None) -> None:
    """Let every rank write a trained model to the same files, and read its weights back.

    The models are read by `require_plain_keras_reads_them`, all in one process.

    Args:
        real: the model.
        trained: what the training ended with.
        build: makes a model of the layers that were trained, where those are not `real.build`'s.
    """
    folder = shared_folder()
    trained.model.save_weights(folder / "model.weights.h5")
    if real.portable:
        trained.model.save(folder / "model.keras")
    hvd.barrier()
    if hvd.rank() > 0:
        return
    other = real.made(9, build)
    other.load_weights(folder / "model.weights.h5")
    for variable, mine in zip(other.weights, trained.weights or [], strict=True):
        np.testing.assert_array_equal(variable.numpy(), mine, err_msg=variable.path)
    if real.portable:
        x = real.data[0]
        named = {
            name: value.numpy().astype(str) if isinstance(value, tf.Tensor) else value
            for name, value in (x if isinstance(x, dict) else {"x": x}).items()
        }
        np.savez(folder / "model.npz", **named, predictions=trained.predictions)
        _written.append(str(folder / "model"))


def require_plain_keras_reads_them(*modules: str) -> None:
    """A process without hvdkit reads all models that were written, and they predict the same.

    Args:
        *modules: what it has to import, as for models of KerasHub.
    """
    if hvd.rank() == 0:
        assert _written, "no check before this one has written a model"
        manifest = Path(_written[0]).parent / "models.json"
        manifest.write_text(json.dumps(_written))
        # Of a job of its own: what the launcher has told this rank is not for it.
        own = {n: v for n, v in os.environ.items() if not n.startswith(("OMPI_", "PMIX_", "PRTE_"))}
        command = [sys.executable, "-c", READ_BY_PLAIN_KERAS, str(manifest), *modules]
        done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    hvd.barrier()


def require_reads_back(model: keras.Model, real: RealModel, predictions: Any) -> None:
    """Every rank writes a model with layers of hvdkit, and rank 0 reads it."""
    path = shared_folder() / "model.keras"
    model.save(path)
    hvd.barrier()
    if hvd.rank() == 0:
        found = keras.saving.load_model(path).predict(real.data[0], verbose=0)
        keras.tree.map_structure(
            lambda mine, first: np.testing.assert_allclose(mine, first, real.rtol, real.atol),
            found,
            predictions,
        )
