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
# A small one, so that all methods take minutes on two cores.
GPT_SHAPE = ("--layers", "2", "--context", "64")
GPT = (*GPT_SHAPE, "--steps-per-epoch", "40", "--warmup-steps", "40")


def curve(task: str, method: str, epochs: str, seed: str) -> dict[str, list[float]]:
    """Train the model of an example; its curves, and the seconds since the first step."""
    hvd.init()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    import keras

    keras.utils.set_random_seed(1000 * int(seed) + hvd.rank())
    clock = Clock()
    train = {"digits": _train_digits, "gpt": _train_gpt}[task]
    history = train(method, int(epochs), int(seed), clock.callback(keras))
    return {**history, "seconds": clock.seconds}


def _train_digits(method: str, epochs: int, seed: int, clock: Any) -> dict[str, list[float]]:
    import digits
    import keras
    from exchange_methods import distributed

    model = digits.build_model()
    rate = LEARNING_RATE * hvd.size()
    optimizer = distributed(keras.optimizers.Adam(rate), method)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, test = digits.load_data()
    history: dict[str, list[float]]
    history = model.fit(
        hvd.shard(train, batch_size=BATCH, seed=seed),
        epochs=epochs,
        validation_data=hvd.shard(test, batch_size=BATCH),
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            hvd.callbacks.LearningRateWarmupCallback(rate, warmup_epochs=3),
            clock,
        ],
        verbose=0,
    ).history
    return history


def _train_gpt(method: str, epochs: int, seed: int, clock: Any) -> dict[str, list[float]]:
    import gpt
    from exchange_methods import EXCHANGES

    args = gpt.parse_arguments([*GPT, "--epochs", str(epochs), "--seed", str(seed)])
    shape = gpt.shape_of(args)
    corpus = gpt.gpt_data.load_corpus(args.text, shape.vocabulary, args.cache)
    model = gpt.build_model(shape, False)
    optimizer = gpt.optimizer_of(args, EXCHANGES[method]())
    history: dict[str, list[float]]
    history = gpt.train(model, optimizer, corpus, args, [clock], verbose=0)
    return history


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


def theory(model_name: str, methods: str, ranks: str, hosts: str) -> dict[str, float]:
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
