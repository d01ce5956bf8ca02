"""Train elastically and write down every step; what to break and when are arguments.

    train.py FOLDER [--die HOST STEP] [--join HOST STEP]

Each process writes a line for each step that it has done, and for each commit, to a file of its
own in FOLDER. Run by plain python, it is the training that nothing disturbs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import hvdkit as hvd

EPOCHS = 4
ROWS = 384
BATCH = 8
BATCHES_PER_COMMIT = 3
HOST = os.environ.get("HOROVOD_HOSTNAME", "alone")


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 12)).astype("float32")
    return x, (x @ rng.normal(size=(12, 4)) + rng.normal(size=(ROWS, 4))).argmax(1)


def build_model() -> keras.Model:
    keras.utils.set_random_seed(os.getpid())  # other weights in every process
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((12,)), layers.Dense(16, "tanh"), layers.Dense(4, "softmax")]
    )
    model.compile(
        hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "sparse_categorical_crossentropy"
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

    def write(self, what: str, **more: Any) -> None:
        line = {"what": what, "size": hvd.size(), "rank": hvd.rank(), "host": HOST}
        line["step"] = int(self.model.optimizer.iterations)
        self.file.write(json.dumps({**line, **more}) + "\n")

    def on_train_begin(self, logs: Any = None) -> None:
        weights = np.concatenate([w.ravel() for w in self.model.get_weights()])
        self.write("begin", epoch=self.state.epoch, batch=self.state.batch)
        assert all(np.array_equal(weights, other) for other in hvd.allgather_object(weights))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations)
        if self.args.die and self.args.die[0] == HOST and step == int(self.args.die[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.args.join and step >= int(self.args.join[1]) and hvd.size() < 3:
            if hvd.rank() == 0:
                hosts = self.args.folder / "hosts"
                before = hosts.read_text()
                if self.args.join[0] not in before:
                    hosts.write_text(before + f"{self.args.join[0]}:1\n")
            time.sleep(0.4)  # the driver looks for hosts once a second

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.write("step", epoch=self.epoch, batch=batch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", nargs=2)
    parser.add_argument("--join", nargs=2)
    args = parser.parse_args()
    hvd.init()
    model = build_model()
    state = hvd.elastic.KerasState(model, epoch=0, batch=0)
    diary = Diary(args, state)
    resets: list[int] = []
    state.register_reset_callbacks([lambda: resets.append(hvd.size())])

    commit = state.commit

    def commit_and_write() -> None:
        diary.write("commit", epoch=state.epoch, batch=state.batch)
        commit()

    state.commit = commit_and_write

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
        return model.evaluate(data, verbose=0)

    loss = train(state)
    diary.write("end", loss=float(loss), weights=float(sum(w.sum() for w in model.get_weights())))
    diary.write("resets", resets=resets)


if __name__ == "__main__":
    main()
