"""Saved files load without hvdkit, and with hvd.load_model, with the optimizer's state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.optimizers.mixins import is_distributed

_LOAD_ELSEWHERE = """
import sys
sys.modules["hvdkit"] = None
import keras
model = keras.models.load_model(sys.argv[1])
import json
print(json.dumps({"optimizer": type(model.optimizer).__module__, "iterations":
      int(model.optimizer.iterations), "variables": len(model.optimizer.variables)}))
"""


def check_saved_files_load_without_hvdkit_and_with_state() -> None:
    x, y = data(16, seed=hvd.rank())
    cases = {
        "adam": lambda: hvd.DistributedOptimizer(optimizers.Adam(0.02)),
        "accumulating": lambda: hvd.DistributedOptimizer(
            optimizers.Adam(0.02), backward_passes_per_step=2
        ),
        "scaled": lambda: hvd.DistributedOptimizer(
            optimizers.LossScaleOptimizer(optimizers.Adam(0.02))
        ),
    }
    folder = hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)
    for name, make in cases.items():
        model = mlp(0)
        model.compile(optimizer=make(), loss="mse")
        model.fit(x, y, batch_size=4, verbose=0)
        path = os.path.join(folder, f"{name}.keras")
        if hvd.rank() == 0:
            model.save(path)
            with zipfile.ZipFile(path) as archive:
                assert "hvdkit" not in archive.read("config.json").decode()
            result = subprocess.run(
                [sys.executable, "-c", _LOAD_ELSEWHERE, path],
                capture_output=True,
                text=True,
                timeout=120,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
            loaded = json.loads(result.stdout.splitlines()[-1])
            assert loaded["optimizer"].startswith("keras."), loaded
            assert loaded["iterations"] == int(model.optimizer.iterations), (name, loaded)
            assert loaded["variables"] == len(model.optimizer.variables)
        hvd.barrier()
        options = {"backward_passes_per_step": 2} if name == "accumulating" else {}
        again = hvd.load_model(path, **options)
        assert is_distributed(again.optimizer)
        for mine, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=1e-6)
        again.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        same_on_all_ranks(again)
        for mine, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    hvd.barrier()
    if hvd.rank() == 0:
        for file in Path(folder).iterdir():
            file.unlink()
        os.rmdir(folder)


@keras.saving.register_keras_serializable("hvdkit_tests")
class TwoOptimizers(keras.Model):
    """A model with an optimizer that `compile` does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense, self.second = keras.layers.Dense(2), optimizers.SGD(0.5)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def check_all_optimizers_of_a_loaded_model_are_distributed() -> None:
    model = TwoOptimizers()
    model.compile("adam", "mse")
    model(np.ones((1, 3), "float32"))
    path = os.path.join(tempfile.mkdtemp(), "two.keras")
    model.save(path)
    loaded = hvd.load_model(path)
    assert is_distributed(loaded.optimizer)
    assert is_distributed(loaded.second)
