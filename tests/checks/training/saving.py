"""Saved files load without hvdkit, and with hvd.load_model, with the optimizer's state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.optimizers.composition import is_distributed

_LOAD_ELSEWHERE = """
import sys
sys.modules["hvdkit"] = None
import keras
import json
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    print(json.dumps({"optimizer": type(model.optimizer).__module__, "iterations":
          int(model.optimizer.iterations), "variables": len(model.optimizer.variables)}))
"""


def _load_elsewhere(paths: list[str]) -> list[dict[str, Any]]:
    """What a process without hvdkit finds in files."""
    result = subprocess.run(
        [sys.executable, "-c", _LOAD_ELSEWHERE, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return [json.loads(line) for line in result.stdout.splitlines()[-len(paths) :]]


def _shared_folder() -> Path:
    return Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))


def _remove(folder: Path) -> None:
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)


@long
def check_saved_files_load_without_hvdkit_and_with_state() -> None:
    _require_files_that_load(
        accumulating=lambda: hvd.DistributedOptimizer(
            optimizers.Adam(0.02), backward_passes_per_step=2
        )
    )


@long
def check_saved_files_of_other_optimizers_load_with_state() -> None:
    _require_files_that_load(
        adam=lambda: hvd.DistributedOptimizer(optimizers.Adam(0.02)),
        scaled=lambda: hvd.DistributedOptimizer(
            optimizers.LossScaleOptimizer(optimizers.Adam(0.02))
        ),
    )


def _require_files_that_load(**cases: Callable[[], Any]) -> None:
    x, y = data(16, seed=hvd.rank())
    folder = _shared_folder()
    models = {}
    for name, make in cases.items():
        model = models[str(folder / f"{name}.keras")] = mlp(0)
        model.compile(optimizer=make(), loss="mse")
        model.fit(x, y, batch_size=4, verbose=0)
    if hvd.rank() == 0:
        for path, model in models.items():
            model.save(path)
            with zipfile.ZipFile(path) as archive:
                assert "hvdkit" not in archive.read("config.json").decode()
        for model, loaded in zip(models.values(), _load_elsewhere(list(models)), strict=True):
            assert loaded["optimizer"].startswith("keras."), loaded
            assert loaded["iterations"] == int(model.optimizer.iterations), loaded
            assert loaded["variables"] == len(model.optimizer.variables)
    hvd.barrier()
    for path, model in models.items():
        options = {"backward_passes_per_step": 2} if "accumulating" in path else {}
        again = hvd.load_model(path, **options)
        assert is_distributed(again.optimizer)
        for mine, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=1e-6)
        again.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        same_on_all_ranks(again)
        for mine, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    _remove(folder)


@keras.saving.register_keras_serializable("hvdkit_tests")
class TwoOptimizers(keras.Model):
    """A model with an optimizer that `compile` does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense, self.second = keras.layers.Dense(2), optimizers.SGD(0.5)

    def call(self, x: Any) -> Any:
        return self.dense(x)


@long
def check_all_optimizers_of_a_loaded_model_are_distributed() -> None:
    model = TwoOptimizers()
    model.compile("adam", "mse")
    model(np.ones((1, 3), "float32"))
    path = os.path.join(tempfile.mkdtemp(), "two.keras")
    model.save(path)
    loaded = hvd.load_model(path)
    assert is_distributed(loaded.optimizer)
    assert is_distributed(loaded.second)


def _filled(value: float) -> keras.Model:
    """A model whose weights, all alike, take more than one write."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512), keras.layers.Dense(64)])
    model.compile(optimizer="sgd", loss="mse")
    model.set_weights([np.full_like(weight, value) for weight in model.get_weights()])
    return model


def _read_weights(path: Path) -> list[np.ndarray]:
    model = _filled(-1.0)
    model.load_weights(path)
    return model.get_weights()


def _read_export(path: Path) -> list[np.ndarray]:
    return [variable.numpy() for variable in tf.saved_model.load(str(path)).variables]


@long
def check_all_ranks_save_to_one_path() -> None:
    """What is there is what one of them wrote, whole; each can read it when it has written."""
    model = _filled(float(hvd.rank()))
    folder = _shared_folder()

    def load(path: Path) -> list[np.ndarray]:
        return keras.models.load_model(path, compile=False).get_weights()

    kinds: dict[str, tuple[Callable[[Path], None], Callable[[Path], list[np.ndarray]]]] = {
        "model.keras": (model.save, load),
        "model.h5": (lambda path: model.save(str(path)), load),
        "new/deep/model.h5": (model.save, load),
        "unzipped": (lambda path: model.save(path, zipped=False), load),
        "alias.keras": (lambda path: keras.saving.save_model(model, path), load),
        "model.weights.h5": (model.save_weights, _read_weights),
        "parts.weights.json": (
            lambda path: model.save_weights(path, max_shard_size=2e-4),
            _read_weights,
        ),
        "exported": (lambda path: model.export(path, verbose=False), _read_export),
    }
    for name, (write, read) in kinds.items():
        for _ in range(3):
            hvd.barrier()
            write(folder / name)
            # A folder, and parts, are read one file after the other: when all ranks have written.
            if name in ("unzipped", "exported", "parts.weights.json"):
                hvd.barrier()
            found = {float(value) for weight in read(folder / name) for value in np.unique(weight)}
            assert len(found) == 1 or name.startswith("parts"), (name, found)
            assert found <= set(map(float, range(hvd.size()))), (name, found)
    hvd.barrier()
    left = {path.name for path in folder.rglob("*") if path.name.startswith(".")}
    assert not left, left
    _remove(folder)


@long
def check_one_rank_saves_and_each_saves_to_its_path() -> None:
    folder = _shared_folder()
    model = _filled(float(hvd.rank()))
    own = folder / f"own-{hvd.rank()}.keras"
    model.save(own)
    assert np.unique(keras.models.load_model(own).get_weights()[0]) == [hvd.rank()]
    last = hvd.size() - 1
    if hvd.rank() == last:
        os.symlink("target.keras", folder / "link.keras")
        model.save(folder / "link.keras")
        assert os.path.islink(folder / "link.keras")
        assert zipfile.is_zipfile(folder / "target.keras")
        os.chmod(folder / "target.keras", 0o640)
        model.save(folder / "link.keras", overwrite=True)
        assert os.stat(folder / "target.keras").st_mode & 0o777 == 0o640
        os.makedirs(folder / "served")
        (folder / "served" / "notes.txt").write_text("mine")
        for _ in range(2):
            model.export(folder / "served", verbose=False)
        assert (folder / "served" / "notes.txt").read_text() == "mine"
        assert (folder / "served" / "saved_model.pb").exists()
    _remove(folder)


@keras.saving.register_keras_serializable("hvdkit_tests")
class _Watched(keras.layers.Dense):
    """Calls `during` while it is saved."""

    during: Callable[[], None] = staticmethod(lambda: None)

    def save_own_variables(self, store: dict) -> None:
        type(self).during()
        super().save_own_variables(store)


def check_a_save_that_ends_in_its_middle_leaves_the_old_file() -> None:
    folder = Path(tempfile.mkdtemp())
    model = keras.Sequential([keras.Input((4,)), _Watched(3), _Watched(2)])
    for name, write in (("m.keras", model.save), ("m.weights.h5", model.save_weights)):
        path = folder / name
        write(path)
        before = path.read_bytes()

        def look(path: Path = path, before: bytes = before) -> None:
            assert path.read_bytes() == before, "a rank that is killed now leaves this"

        def fail() -> None:
            raise OSError("the disk is full")

        _Watched.during = staticmethod(look)
        write(path)
        before = path.read_bytes()
        _Watched.during = staticmethod(fail)
        with pytest.raises(OSError, match="the disk is full"):
            write(path)
        assert path.read_bytes() == before
        _Watched.during = staticmethod(lambda: None)
    assert sorted(os.listdir(folder)) == ["m.keras", "m.weights.h5"]
    shutil.rmtree(folder)
