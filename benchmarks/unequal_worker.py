"""One rank of benchmarks/unequal.py: epochs in four ways, in turn, on a slow last rank."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from slowed import slowed

import hvdkit as hvd

SIDE, CHANNELS, CLASSES = 24, 48, 10
_LEFT_OUT = 2


def main(batch_size: int, share: float, steps: int, on_the_way: int, seconds: float) -> None:
    """Print what each step took while weights were found, and rows per second of each way then."""
    hvd.init(consistency_check=False)  # alone, ranks come to have weights of their own
    import numpy as np

    from hvdkit.data.shares import apportioned

    rank, size = hvd.rank(), hvd.size()
    slow = rank == size - 1
    rows = size * batch_size
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * rows, SIDE, SIDE, 3)).astype("float32")
    y = rng.integers(0, CLASSES, len(x))
    given: dict[str, Any] = {
        "equal": None,
        "fixed": [1.0] * (size - 1) + [share],
        "measured": "measured",
    }
    data = {way: hvd.shard((x, y), batch_size, weights=weights) for way, weights in given.items()}
    models = {way: _model(alone=way == "alone") for way in ("alone", *given)}
    # A slow rank alone makes fewer steps, so that all end at about the same time.
    own = batch_size * max(1 + _LEFT_OUT, round(steps * (share if slow else 1)))

    def rows_of(way: str) -> list[int]:
        return list(apportioned(data[way].weights or size * [1.0], rows))

    def rows_per_second(way: str) -> float:
        clock = _clock()
        hvd.barrier()
        if way == "alone":
            options = {"batch_size": batch_size, "shuffle": False}
            models[way].fit(x[:own], y[:own], verbose=0, callbacks=[clock], **options)
        else:
            models[way].fit(data[way], verbose=0, callbacks=[clock])
        return batch_size / clock.seconds_of_a_step()

    found: dict[str, Any] = {way: [] for way in models}
    with slowed(share if slow else 1):
        clock = _clock(lambda: rows_of("measured"))
        epochs = -(-on_the_way // steps)
        models["measured"].fit(data["measured"], epochs=epochs, verbose=0, callbacks=[clock])
        for way in models:
            rows_per_second(way)
        begun = time.monotonic()
        while hvd.broadcast_object(len(found["alone"]) < 2 or time.monotonic() - begun < seconds):
            ways = list(models)
            for way in ways[:: -1 if len(found["alone"]) % 2 else 1]:
                found[way].append(rows_per_second(way))
    found["ends"], found["rows on the way"] = clock.ends, clock.seen
    found["rows"] = {way: rows_of(way) for way in ("fixed", "measured")}
    sys.stdout.write(f"UNEQUAL {json.dumps(found)}\n")
    sys.stdout.flush()


def _model(alone: bool) -> Any:
    """A small convolutional network, whose steps are computing rather than exchange."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        layer
        for _ in range(3)
        for layer in (keras.layers.Conv2D(CHANNELS, 3, activation="relu", padding="same"),)
    ]
    model = keras.Sequential(
        [
            keras.layers.Input((SIDE, SIDE, 3)),
            *layers,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(CLASSES),
        ]
    )
    optimizer = keras.optimizers.SGD(0.001)
    model.compile(
        optimizer if alone else hvd.DistributedOptimizer(optimizer),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def _clock(look: Callable[[], Any] = lambda: None) -> Any:
    """A callback that notes when steps have ended, and what `look` saw then."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []
            self.seen: list[Any] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends.append(time.monotonic())
            self.seen.append(look())

        def seconds_of_a_step(self) -> float:
            counted = self.ends[_LEFT_OUT - 1 :]
            return (counted[-1] - counted[0]) / (len(counted) - 1)

    return Clock()


if __name__ == "__main__":
    batch, share, *steps, seconds = sys.argv[1:]
    main(int(batch), float(share), *map(int, steps), float(seconds))
