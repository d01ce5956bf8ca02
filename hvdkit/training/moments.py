"""A `fit` whose steps note moments, where one of its callbacks measures them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from hvdkit.metrics.noted_steps import notes_moments
from hvdkit.training.features import Call, Feature
from hvdkit.watch.step_times import step_times


class NotedMoments(Feature):
    """Steps note moments where a callback has `measures_steps`; its `end_measuring` ends it.

    A training function that was traced without them is made again; it then keeps them, so that a
    later `fit` that measures nothing does not trace it once more.
    """

    def __init__(self) -> None:
        self._measured = False

    def before(self, call: Call) -> None:
        """See whether anybody measures."""
        self._measured = any(getattr(c, "measures_steps", False) for c in call.callbacks)
        if not self._measured:
            return
        if not notes_moments(call.model):
            call.model.train_function = None
        call.add_callback(_Done(), first=True)
        call.add_callback(_Begun())

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Functions that are traced meanwhile note moments."""
        try:
            with step_times.noted() if self._measured else contextlib.nullcontext():
                yield
        finally:
            for callback in call.callbacks if self._measured else ():
                if getattr(callback, "measures_steps", False):
                    callback.end_measuring()


class _Begun(keras.callbacks.Callback):
    """Notes when a step begins, after all other callbacks."""

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note it."""
        step_times.call_begins()


class _Done(keras.callbacks.Callback):
    """Notes when a step is done, before all other callbacks."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note it."""
        step_times.call_ends()
