"""A script that `hvdkit scale` runs: some steps of its `fit` are measured, and then it ends.

The script is the user's own, and runs as it is. Its first `fit` that makes enough steps is the one
that counts. What it does after these steps is not done, and while they are made nothing is saved,
nothing is restored and nothing is validated: a measurement may leave no checkpoint behind, and
begins where a training does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import keras

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.callbacks.monitor import Monitor
from hvdkit.engine import allgather_object, several_ranks, shutdown, topology
from hvdkit.exchange.abilities import OutOfStep
from hvdkit.monitoring.measurement import Answer, Measurement
from hvdkit.monitoring.sinks.json_lines import JsonLines
from hvdkit.optimizers.composition import chains, leaves
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.divided_batch import divide_batch
from hvdkit.training.features import Call, Feature
from hvdkit.training.measured_use import UseSince

_NEVER = 10**9
# They write files, resume, tell servers, or end a training before all steps are made.
_LEFT_OUT = (
    BackupAndRestore,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


class Measured(Feature):
    """In a job of `hvdkit scale`, a `fit` is measured, and is the last thing that its script does.

    It comes before all other features: what it changes of the call is as if the user had given it.
    """

    def before(self, call: Call) -> None:
        """Change the call as the measurement needs it.

        Raises:
            NotImplementedError: on every rank: ranks do not make their steps together.
        """
        asked = Measurement.from_environ(os.environ)
        if asked is None:
            return
        _require_in_step(call.model)
        _divide(call, asked)
        given = call.callbacks
        left_out = [callback for callback in given if _is_left_out(callback)]
        call.callbacks = [callback for callback in given if callback not in left_out]
        call.arguments["validation_freq"] = _NEVER
        if not isinstance(call.arguments["x"], Iterator):  # which is read once
            enough = call.arguments["initial_epoch"] + asked.warm_up + asked.steps
            call.arguments["epochs"] = max(call.arguments["epochs"], enough)
        monitor = Monitor(every=asked.every, sinks=[JsonLines(asked.folder)], alarms=[])
        names = list(dict.fromkeys(type(callback).__name__ for callback in left_out))
        call.add_callback(monitor)
        call.add_callback(_Window(asked, monitor, names))


class _Window(keras.callbacks.Callback):
    """Ends the process on all ranks once all steps are measured.

    Args:
        asked: what is to be measured.
        monitor: what makes the samples; it stands before this one.
        left_out: the user's callbacks that were left out.
    """

    def __init__(self, asked: Measurement, monitor: Monitor, left_out: list[str]) -> None:
        super().__init__()
        self._asked = asked
        self._monitor = monitor
        self._left_out = left_out
        self._made = 0
        self._in_epoch = 0
        self._use: UseSince | None = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Count from the start of the epoch."""
        self._in_epoch = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Begin after the warm-up, and end when all is measured."""
        self._made += batch + 1 - self._in_epoch
        self._in_epoch = batch + 1
        if self._use is None and self._made >= self._asked.warm_up:
            _wait_for(logs)
            self._use = UseSince()
        elif self._use is not None:
            self._use.look()
            if self._made >= self._asked.warm_up + self._asked.steps:
                _wait_for(logs)
                self._finish(self._use)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """The data has ended before: the script goes on, to another `fit` maybe."""
        if topology.rank() == 0:
            Answer(made=self._made).write(Path(self._asked.folder))

    def _finish(self, use: UseSince) -> NoReturn:
        own = use.until_now()
        everyone = allgather_object(own, name="hvdkit.measured") if several_ranks() else [own]
        self._monitor.on_train_end()
        self._monitor.end_measuring()
        _leave(self._asked, Answer(everyone, self._left_out))


def _require_in_step(model: Any) -> None:
    optimizers = [leaf for one in optimizers_of(model) for leaf in leaves(one.optimizer)]
    for chain in (chain for optimizer in optimizers for chain in chains(optimizer)):
        if isinstance(chain.exchange, OutOfStep):
            raise NotImplementedError(
                "hvdkit scale measures ranks that make their steps together, and those of "
                f"hvd.exchange.{type(chain.exchange).__name__} do not. hvd.callbacks.Monitor says "
                "what one of them does."
            )


def _is_left_out(callback: Any) -> bool:
    # What measures steps beside it would be measured, too.
    return isinstance(callback, _LEFT_OUT) or getattr(callback, "measures_steps", False)


def _divide(call: Call, asked: Measurement) -> None:
    """Give each rank fewer rows of a batch; where that can't be done, no rank goes on."""
    if asked.divide == 1:
        return
    problem = divide_batch(call, asked.divide)
    everyone = [problem]
    if several_ranks():
        everyone = allgather_object(problem, name="hvdkit.measured.divide")
    refused = next(filter(None, everyone), None)
    if refused is not None:
        _leave(asked, Answer(refused=refused))


def _wait_for(logs: Mapping[str, Any] | None) -> None:
    """Wait until a device has done what it was told to: these are numbers that come of it."""
    for value in keras.tree.flatten(dict(logs or {})):
        keras.ops.convert_to_numpy(value)


def _leave(asked: Measurement, answer: Answer) -> NoReturn:
    """End this process, as all ranks do now, and nothing more of the script.

    Not by an exception: what the script does after an error, or at its exit, may be to save.
    """
    if topology.rank() == 0:
        answer.write(Path(asked.folder))
    sys.stdout.flush()
    sys.stderr.flush()
    # All ranks end here: none is missed by the others.
    shutdown()
    os._exit(0)
