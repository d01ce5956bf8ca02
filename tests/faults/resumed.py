"""A training that is started again and again: each rank writes what it saw and what it ended with.

    python resumed.py FOLDER [--kill RANKS:BATCH] [--kill-while-saving RANK] [--wait] [--compare]

FOLDER/checkpoints is where it goes on, FOLDER/rows-RANK lists "epoch batch row" for each row that
a rank has trained on.
"""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.checkpoint import saver
from hvdkit.data.batch_scale import current_scale

ROWS, BATCH, EPOCHS = 50, 4, 2


class Recording(keras.Sequential):
    """Writes down the rows of each step; padding, which has no weight, is no row."""

    place = (0, 0)
    file: Any = None

    def train_step(self, data: Any) -> Any:
        scale = current_scale()
        if self.file is not None and (scale is None or float(scale.value) > 0):
            for row in np.asarray(data[0])[:, 0]:
                print(*self.place, int(row), file=self.file, flush=True)
        return super().train_step(data)


class Places(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.place = (epoch, 0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.place = (self.model.place[0], batch)


class Kill(keras.callbacks.Callback):
    def __init__(self, ranks: str, batches: int) -> None:
        super().__init__()
        self.mine = ranks == "all" or int(ranks) == hvd.rank()
        self.left = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0 and self.mine:
            os.kill(os.getpid(), signal.SIGKILL)


class Wait(keras.callbacks.Callback):
    """Make steps slow, and say when the training goes on."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 1 and hvd.rank() == 0:
            print("training", os.getpid(), flush=True)
        time.sleep(0.05)


def kill_while_saving(rank: int) -> None:
    """Let a rank die when it has written its second file, before anyone knows."""
    original, count = saver.write_atomically, 0

    def write(path: Path, pieces: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3 and hvd.rank() == rank:
            data = b"".join(bytes(memoryview(piece).cast("B")) for piece in pieces)
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, pieces)

    saver.write_atomically = write


def build(record: Any) -> Recording:
    keras.utils.set_random_seed(hvd.rank())
    model = Recording(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    model.file = record
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=record is not None)
    return model


def fit(folder: Path, record: Any, callbacks: list[Any], epochs: int) -> list[Any]:
    x = np.random.default_rng(1).normal(size=(ROWS, 6)).astype("float32")
    x[:, 0] = np.arange(ROWS)
    y = np.cos(x[:, 1:3])
    model = build(record)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    backup = hvd.callbacks.BackupAndRestore(folder, save_freq=1)
    history = model.fit(
        hvd.shard((x, y), BATCH, seed=2),
        epochs=epochs,
        verbose=0,
        callbacks=[start, backup, Places(), *callbacks],
    ).history
    return [*[np.array(v) for v in [*model.variables, *model.optimizer.variables]], history]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill")
    parser.add_argument("--kill-while-saving", type=int)
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    hvd.init()
    if arguments.wait:
        # As srun does to ranks that are still leaving when the first has left.
        atexit.register(os.kill, os.getpid(), signal.SIGTERM)
    tf.config.experimental.enable_op_determinism()
    callbacks: list[Any] = [Wait()] if arguments.wait else []
    if arguments.kill:
        ranks, batches = arguments.kill.split(":")
        callbacks.append(Kill(ranks, int(batches)))
    if arguments.kill_while_saving is not None:
        kill_while_saving(arguments.kill_while_saving)
    record = None
    if arguments.record:
        record = open(arguments.folder / f"rows-{hvd.rank()}", "a")  # noqa: SIM115
    epochs = 500 if arguments.wait else EPOCHS
    end = fit(arguments.folder / "checkpoints", record, callbacks, epochs)
    if arguments.compare:
        never = fit(arguments.folder / "never-stopped", record, [], epochs)
        for mine, theirs in zip(end[:-1], never[:-1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert end[-1] == never[-1], (end[-1], never[-1])
        print(f"rank {hvd.rank()} is the same", flush=True)


if __name__ == "__main__":
    main()
