"""Ranks that drift apart later, and repairing them."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
from checks.agreement.at_start import START, fit
from checks.marks import long
from checks.reference import mlp, same_on_all_ranks

import hvdkit as hvd

Check = hvd.callbacks.ConsistencyCheck


class _Disturb(keras.callbacks.Callback):
    """Changes the last bit of one weight on the last rank, once, at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.seen = 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.seen += 1
        if self.seen == self.step and hvd.rank() == hvd.size() - 1:
            bias = self.model.layers[0].bias
            value = bias.numpy()
            value[3] = np.nextafter(value[3], np.float32(np.inf))
            bias.assign(value)


def _model() -> keras.Model:
    model = mlp(hvd.rank())
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    return model


@long
def check_one_bit_is_seen_at_the_next_check() -> None:
    for options, when in (
        ({"every_n_steps": 3}, r"after 6 steps \(epoch 2, step 2\)"),
        ({"every_n_epochs": 1}, "at the end of epoch 1"),
    ):
        step = 6 if "every_n_steps" in options else 4
        with pytest.raises(hvd.RankMismatchError, match=when) as caught:
            fit(_model(), START(0), _Disturb(step), Check(**options), epochs=3)
        assert "bias by at most" in str(caught.value)


def check_optimizer_state_is_compared() -> None:
    class Faster(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if hvd.rank() == 1 and batch == 1:
                self.model.optimizer.learning_rate = 0.3

    with pytest.raises(hvd.RankMismatchError, match=r"learning_rate by at most 0\.2"):
        fit(_model(), START(0), Faster(), Check(every_n_steps=2))


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def logged(call: Any) -> list[str]:
    """What hvdkit logs meanwhile."""
    log = _Log()
    logging.getLogger("hvdkit").addHandler(log)
    try:
        call()
    finally:
        logging.getLogger("hvdkit").removeHandler(log)
    return log.lines


@long
def check_repair_sends_what_differs_and_logs_it() -> None:
    model = _model()
    lines = logged(lambda: fit(model, START(0), _Disturb(3), Check(every_n_steps=1, repair=True)))
    same_on_all_ranks(model)
    repaired = [line for line in lines if "All have rank 0's now" in line]
    assert len(repaired) == (hvd.rank() == 0), lines
    if repaired:
        assert "after 3 steps" in repaired[0]


def check_intervals_that_make_no_sense_are_refused() -> None:
    for options in ({"every_n_steps": 0}, {"every_n_epochs": -1}, {"every_n_steps": 1.5}):
        with pytest.raises(ValueError, match="positive integer"):
            Check(**options)
