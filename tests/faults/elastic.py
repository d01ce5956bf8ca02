"""Train elastically and write down every step; what to break and when are arguments.

    python elastic.py FOLDER [--die WHO STEP] [--join HOST STEP] [--pause SECONDS]

Each process writes a line for each step and each commit to a file of its own in FOLDER. Run by
plain python, it is the training that nothing disturbs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

EPOCHS = 6
ROWS = 384
BATCH = 8
BATCHES_PER_COMMIT = 3
HOST = os.environ.get("HOROVOD_HOSTNAME", "alone")


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Rows with noise in their labels, so that training ends at a loss that is not 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 12)).astype("float32")
    return x, (x @ rng.normal(size=(12, 4)) + 2 * rng.normal(size=(ROWS, 4))).argmax(1)


def build_model() -> keras.Model:
    """One layer: the loss is convex, so it ends at one value, whatever it started from."""
    keras.utils.set_random_seed(os.getpid())  # other weights in every process
    model = keras.Sequential(
        [keras.layers.Input((12,)), keras.layers.Dense(4, activation="softmax")]
    )
    model.compile(
        hvd.DistributedOptimizer(keras.optimizers.Adam(0.03)), "sparse_categorical_crossentropy"
    )
    return model


class Diary(keras.callbacks.Callback):
    """Write down each step, and break what is to be broken."""

    def __init__(self, args: argparse.Namespace, state: Any) -> None:
        super().__init__()
        self.args = args
        self.state = state
        self.epoch = 0
        self.file = (args.folder / f"{HOST}-{os.getpid()}.jsonl").open("a", buffering=1)

    def write(self, what: str, epoch: int, batch: int, **more: Any) -> None:
        weights = b"".join(w.tobytes() for w in self.state.model.get_weights())
        line = {
            "what": what,
            "time": time.time(),
            "host": HOST,
            "rank": hvd.rank(),
            "size": hvd.size(),
            "step": int(self.state.optimizer.iterations),
            "epoch": epoch,
            "batch": batch,
            "weights": hashlib.sha256(weights).hexdigest()[:16],
        }
        self.file.write(json.dumps({**line, **more}) + "\n")

    def on_train_begin(self, logs: Any = None) -> None:
        self.write("begin", self.state.epoch, self.state.batch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations)
        if self.args.die and step == int(self.args.die[1]):
            self._die()
        if self.args.join and step >= int(self.args.join[1]) and not self.state.resets:
            hosts = self.args.folder / "hosts"
            if hvd.rank() == 0 and self.args.join[0] not in hosts.read_text():
                hosts.write_text(hosts.read_text() + f"{self.args.join[0]}:1\n")
            time.sleep(0.4)  # horovodrun looks for hosts once a second

    def _die(self) -> None:
        if self.args.die[0] in (HOST, f"rank{hvd.rank()}"):
            try:
                (self.args.folder / "died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.write("step", self.epoch, batch)
        time.sleep(self.args.pause)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", nargs=2, metavar=("WHO", "STEP"))
    parser.add_argument("--join", nargs=2, metavar=("HOST", "STEP"))
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each step")
    args = parser.parse_args()
    hvd.init()
    model = build_model()
    state = hvd.elastic.KerasState(model, epoch=0, batch=0, resets=[])
    state.register_reset_callbacks([lambda: state.resets.append(hvd.size())])
    diary = Diary(args, state)

    save = state.save

    def save_and_write() -> None:
        save()
        diary.write("commit", state.epoch, state.batch)

    state.save = save_and_write  # type: ignore[method-assign]

    @hvd.elastic.run
    def train(state: Any) -> float:
        data = hvd.shard(rows(), batch_size=BATCH, seed=3)
        callbacks = [
            hvd.elastic.CommitStateCallback(state, BATCHES_PER_COMMIT),
            hvd.elastic.UpdateBatchStateCallback(state),
            hvd.elastic.UpdateEpochStateCallback(state),
            diary,
        ]
        model.fit(data, initial_epoch=state.epoch, epochs=EPOCHS, callbacks=callbacks, verbose=0)
        return float(model.evaluate(data, verbose=0))

    loss = train(state)
    diary.write("end", state.epoch, state.batch, loss=loss, resets=state.resets)


if __name__ == "__main__":
    main()
