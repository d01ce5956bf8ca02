"""The states of callbacks come back; a callback whose state is lost is named."""

from __future__ import annotations

import logging
from typing import Any

import keras
from checks.checkpoints.runs import require_same_end, rows, shared_folder, train
from checks.marks import long

import hvdkit as hvd


def _callbacks() -> list[Any]:
    return [
        hvd.callbacks.LearningRateWarmupCallback(0.02, warmup_epochs=2),
        hvd.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0, factor=0.5),
        hvd.callbacks.EarlyStopping(
            "loss", patience=3, min_delta=10.0, restore_best_weights=True, start_from_epoch=0
        ),
    ]


@long
def check_plateaus_and_warm_up() -> None:
    options = {"epochs": 6, "validation_data": hvd.shard(rows(), 4)}
    never, folder = train(shared_folder(), callbacks=_callbacks(), **options), shared_folder()
    assert len(never.history["loss"]) < 6, "it did not stop early, so this proves nothing"
    assert train(folder, stop=8, callbacks=_callbacks(), **options) is None
    require_same_end(never, train(folder, callbacks=_callbacks(), **options))
    # It has stopped early: to start it again changes nothing.
    require_same_end(never, train(folder, callbacks=_callbacks(), **options))


@long
def check_lost_state_is_named() -> None:
    class Counter(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.count = 0

    class Stateless(keras.callbacks.Callback):
        pass

    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear = Ear(logging.WARNING)
    logging.getLogger("hvdkit").addHandler(ear)
    try:
        callbacks = [Counter(), Stateless(), *_callbacks()[:1]]
        train(shared_folder(), callbacks=callbacks, epochs=1)
    finally:
        logging.getLogger("hvdkit").removeHandler(ear)
    lost = [text for text in said if "not saved in checkpoints" in text]
    assert len(lost) == (1 if hvd.rank() == 0 else 0), said
    assert all("state of Counter is" in text for text in lost), lost
