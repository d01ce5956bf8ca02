"""One rank of benchmarks/exchange.py: a training by one method, or what methods send in theory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import hvdkit as hvd

MARKER = "CURVE"
BATCH, LEARNING_RATE = 16, 0.0015


def curve(method: str, epochs: str) -> dict[str, list[float]]:
    """Train examples/digits.py's model; its curves, and the seconds since the first step."""
    hvd.init()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import digits
    import keras
    from exchange_methods import optimizer_of

    keras.utils.set_random_seed(1 + hvd.rank())
    model = digits.build_model()
    rate = LEARNING_RATE * hvd.size()
    model.compile(optimizer_of(method, rate), "sparse_categorical_crossentropy", ["accuracy"])
    train, test = digits.load_data()
    clock = Clock()
    history = model.fit(
        hvd.shard(train, batch_size=BATCH, seed=1),
        epochs=int(epochs),
        validation_data=hvd.shard(test, batch_size=BATCH),
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.LearningRateWarmupCallback(rate, warmup_epochs=3),
            clock.callback(keras),
        ],
        verbose=0,
    ).history
    return {**history, "seconds": clock.seconds}


class Clock:
    """The seconds of training at the end of each epoch, from the end of the first step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin: float | None = None

    def callback(self, keras: Any) -> Any:
        """A callback that tells it."""
        return keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._step(),
            on_epoch_end=lambda epoch, logs: self._epoch(),
        )

    def _step(self) -> None:
        if self._begin is None:
            self._begin = time.monotonic()

    def _epoch(self) -> None:
        if self._begin is not None:
            self.seconds.append(time.monotonic() - self._begin)


def theory(model_name: str, methods: str, ranks: str, hosts: str) -> dict[str, float | None]:
    """Bytes that a host sends for an update, of some ranks on some hosts."""
    hvd.init()
    from exchange_methods import sent_bytes
    from models import MODELS

    model = MODELS[model_name]()[0]
    variables = model.trainable_variables
    counts = int(ranks), int(hosts)
    return {name: sent_bytes(name, variables, *counts) for name in methods.split(",")}


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    found: Any = {"curve": curve, "bytes": theory}[what](*arguments)
    if hvd.rank() == 0:
        print(MARKER, json.dumps(found), flush=True)
