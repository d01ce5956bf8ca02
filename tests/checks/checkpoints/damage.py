"""Damaged, foreign and malicious files, full disks, and folders that can't be written."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import pytest
from checks.checkpoints.runs import build, never_stopped, require_same_end, shared_folder, train
from checks.marks import long

import hvdkit as hvd
from hvdkit.checkpoint import CheckpointError
from hvdkit.checkpoint.arrays import MAGIC


def _only_rank_0(action: Callable[[], Any]) -> None:
    hvd.barrier()
    if hvd.rank() == 0:
        action()
    hvd.barrier()


def _everyone_gets(message: str) -> None:
    """Every rank has got the same message."""
    assert len(set(hvd.allgather_object(message))) == 1


def _newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"))


def _save(folder: Path, number: int) -> keras.Model:
    """Write a checkpoint of a small model whose weights are all `number`."""
    model = _model()
    for variable in model.trainable_variables:
        variable.assign(keras.ops.full(variable.shape, number))
    hvd.checkpoint.save(folder, model, model.optimizer, values={"number": number})
    return model


def _model(units: int = 2, optimizer: Any = "adam") -> keras.Model:
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(units)])
    model.compile(hvd.DistributedOptimizer(optimizer), "mse")
    return model


@long
def check_damage_is_found_and_the_one_before_is_used() -> None:
    def cut_off(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    harms = [("shared.bin", cut_off), ("rank-1.bin", flip), ("manifest.json", cut_off)]
    harms += [("manifest.json", flip), ("rank-0.bin", os.unlink)]
    folder = shared_folder()
    _save(folder, 1)
    for name, harm in harms:
        _save(folder, 2)
        newest = hvd.broadcast_object(_newest(folder))
        hvd.checkpoint.verify(newest)
        _only_rank_0(lambda f=newest / name, h=harm: h(f))
        with pytest.raises(CheckpointError, match=name):
            hvd.checkpoint.verify(newest)
        assert hvd.checkpoint.latest(folder) != str(newest)
        hvd.barrier()
        model = _model()
        assert hvd.checkpoint.restore(folder, model, model.optimizer) == {"number": 1}
        assert float(model.layers[0].kernel[0, 0]) == 1
    hvd.barrier()
    assert len(list(folder.glob("broken-checkpoint-*"))) == len(harms)


def check_nothing_whole_is_an_error() -> None:
    folder = shared_folder()
    _save(folder, 1)
    _only_rank_0(lambda: os.truncate(_newest(folder) / "shared.bin", 10))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole.*cut off") as raised:
        train(folder)
    _everyone_gets(str(raised.value))


def check_other_model_is_an_error() -> None:
    folder = shared_folder()
    _save(folder, 1)
    sgd = _model(optimizer="sgd")
    with pytest.raises(CheckpointError, match="group 'optimizer'"):
        hvd.checkpoint.restore(folder, sgd, sgd.optimizer)
    other = _model(units=3)
    with pytest.raises(CheckpointError, match=r"kernel is float32 \(6, 2\), and this model's"):
        hvd.checkpoint.restore(folder, other, other.optimizer)


def check_no_code_is_run() -> None:
    """A file that would run code if it were unpickled, with checksums that are right."""
    folder, trap = shared_folder(), shared_folder() / "sprung"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trap),)

    bombs = [pickle.dumps(Bomb())]
    header = {"arrays": [{"name": "trainable/0", "dtype": "O", "shape": [1], "bytes": 8}]}
    for entry in ("O", "object", "string", "resource", "variant"):
        header["arrays"][0]["dtype"] = entry
        text = json.dumps({**header, "values": {}}).encode()
        bombs.append(MAGIC + len(text).to_bytes(8, "little") + text + pickle.dumps(Bomb()))
    config = {"class_name": "Lambda", "config": {"function": "__import__('os').mkdir('x')"}}
    text = json.dumps({"arrays": [], "values": {"paths": config, "model": config}}).encode()
    bombs.append(MAGIC + len(text).to_bytes(8, "little") + text)
    model = _save(folder, 1)
    for bomb in bombs:
        _only_rank_0(lambda b=bomb: _replace_shared(folder, b))
        hvd.checkpoint.verify(_newest(folder))
        with pytest.raises(CheckpointError):
            hvd.checkpoint.restore(folder, model, model.optimizer)
        assert not trap.exists()


def _replace_shared(folder: Path, data: bytes) -> None:
    """Put other contents into the newest checkpoint, as an attacker who can compute checksums."""
    from hvdkit.checkpoint.files import write_atomically
    from hvdkit.checkpoint.store import _checksum

    newest = _newest(folder)
    digest = write_atomically(newest / "shared.bin", [data])
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["checkpoint"]["files"]["shared.bin"] = digest.as_json()
    manifest["sha256"] = _checksum(manifest["checkpoint"])
    (newest / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def _disk_is_full(after: int) -> Iterator[None]:
    """Files of this process can't grow beyond `after` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@long
def check_disk_that_is_full_on_one_rank() -> None:
    folder = shared_folder()
    assert train(folder, stop=6) is None
    whole = hvd.checkpoint.latest(folder)
    saves = [lambda model: train(folder, model=model, save_freq=1)]
    saves += [lambda model: hvd.checkpoint.save(folder, model, model.optimizer)] * 2
    for full_rank, save in enumerate(saves[: hvd.size()]):
        limit = 500 if hvd.rank() == full_rank else resource.RLIM_INFINITY
        with (
            _disk_is_full(limit),
            pytest.raises(CheckpointError, match=r"File too large.*older checkpoints") as raised,
        ):
            save(build())
        assert f"on rank {full_rank}" in str(raised.value)
        _everyone_gets(str(raised.value))
        assert hvd.checkpoint.latest(folder) == whole
        hvd.barrier()
    require_same_end(never_stopped(), train(folder))


def check_folder_that_cannot_be_written() -> None:
    folder = shared_folder()
    _only_rank_0(lambda: (folder / "file").write_text(""))
    with pytest.raises(CheckpointError, match=r"on rank 0 .*can't be written") as raised:
        train(folder / "file" / "below")
    _everyone_gets(str(raised.value))


def check_folder_that_is_not_shared() -> None:
    folder = shared_folder()
    own = folder if hvd.rank() == 0 else Path(str(folder) + f"-{hvd.rank()}")
    with pytest.raises(CheckpointError, match="a folder that all hosts share"):
        train(own)


def check_arguments() -> None:
    for wrong in ({"save_freq": 0}, {"save_freq": "batch"}, {"keep": 0}):
        with pytest.raises(ValueError, match="not"):
            hvd.callbacks.BackupAndRestore("somewhere", **wrong)


def check_only_the_newest_are_kept() -> None:
    folder = shared_folder()
    for number in range(5):
        _save(folder, number)
    hvd.barrier()
    names = sorted(path.name for path in folder.iterdir())
    hvd.barrier()
    assert len(names) == 3, names
    assert all(name.startswith("checkpoint-") for name in names), names
