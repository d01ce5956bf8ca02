"""What the checks train: small models, different on each rank, and data that all ranks have."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.exchange import ParameterServer

BATCH = 4
_PATIENCE_SECONDS = 100.0


def compiled(model: keras.Model, exchange: Any, optimizer: Any = None, **options: Any) -> Any:
    """The model, compiled with an optimizer that has the exchange."""
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=exchange), "mse", **options)
    return model


def is_worker(exchange: ParameterServer) -> bool:
    return hvd.rank() in exchange.workers


class Traces:
    """How many steps each rank has begun, in files that all of them can read."""

    def __init__(self) -> None:
        self._folder: str = hvd.broadcast_object(tempfile.mkdtemp())

    def begin_step(self) -> None:
        """Note that this rank begins a step."""
        with open(self._file(hvd.rank()), "ab") as file:
            file.write(b".")

    def begun(self, rank: int) -> int:
        """How many steps a rank has begun."""
        path = self._file(rank)
        return os.path.getsize(path) if os.path.exists(path) else 0

    def wait_until(self, rank: int, steps: int) -> None:
        """Wait until a rank has begun some steps; AssertionError if it never does."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while self.begun(rank) < steps:
            assert time.monotonic() < end, f"rank {rank} has begun {self.begun(rank)} steps"
            time.sleep(0.005)

    def _file(self, rank: int) -> str:
        return os.path.join(self._folder, str(rank))


class BeforeSteps(keras.callbacks.Callback):
    """Calls a function with the number of the step, from 0, before each."""

    def __init__(self, do: Callable[[int], None]) -> None:
        super().__init__()
        self._do = do
        self.steps = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._do(self.steps)
        self.steps += 1


def same_everywhere(values: Any) -> None:
    """Assert that every rank has the same arrays, to the bit."""
    mine = [np.asarray(value) for value in values]
    for other in hvd.allgather_object(mine):
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one, two)
