"""What a training does, in figures of all ranks."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hvdkit.callbacks.metric_average import LogsOfAllRanks
from hvdkit.callbacks.monitored_ranks import (
    MonitoredRanks,
    accumulated_steps,
    job_of,
    learning_rate,
    monitored_ranks,
    steps_before,
)
from hvdkit.engine import HvdkitError, logger, raise_everywhere, require_initialized
from hvdkit.metrics.noted_steps import inputs_seen
from hvdkit.metrics.windows import MeanWindows
from hvdkit.monitoring.alarms.base import Lookout
from hvdkit.monitoring.alarms.defaults import default_alarms
from hvdkit.monitoring.alarms.lookouts import Lookouts
from hvdkit.monitoring.figures import job_figures, means_of, rank_figures
from hvdkit.monitoring.machine import Machine
from hvdkit.monitoring.sample import Alarm, Sample
from hvdkit.monitoring.sink import Sink
from hvdkit.monitoring.sinks.all_sinks import Sinks
from hvdkit.monitoring.sinks.terminal import Terminal
from hvdkit.monitoring.window import Window, exchanged, metric_names
from hvdkit.optimizers.composition import mesh_of
from hvdkit.state.meeting import bring_together
from hvdkit.state.reachable import leading_optimizer
from hvdkit.watch.activity import pause
from hvdkit.watch.moments import Moments
from hvdkit.watch.reader import Reader
from hvdkit.watch.step_times import step_times


class Monitor(LogsOfAllRanks):
    """Say what a training does: its speed, where the time of a step goes, memory, power.

    Every rank has it; they exchange one row of numbers for each sample, and rank 0 gives the
    figures of all of them (`hvd.monitoring.QUANTITIES`) to the sinks. A sample is about the steps
    since the one before it. The first step of a `fit`, in which it is traced, and what happens
    between two epochs, such as validation, count in none. At the end of an epoch the logs of
    `fit`, over all ranks, go to the sinks, too.

    How long ranks wait for others is found from the collectives that a step waits for: the others
    wait for the rank that spends the least time in them, and what that one spends is what they
    take by themselves ("exchange"). Where one call of the training function makes several steps
    (`steps_per_execution`), or XLA compiles it as a whole, only the time of a step as a whole is
    known, and its parts are left out.

    Args:
        every: a sample after so many steps.
        sinks: where the figures go, see `hvd.monitoring`; default: the terminal.
        alarms: what to look out for; default: `hvd.monitoring.default_alarms()`.
        on_alarm: called on rank 0 with each `hvd.monitoring.Alarm`; a function of one's own, or a
            `hvd.monitoring.WebHook`.
        peak_flops: floating-point operations a second that the devices of a rank can do, where
            hvdkit does not know it. A sample then has the share of it that the model uses.

    Attributes:
        sample: the last sample, on every rank, with the same figures; None before the first.

    Raises:
        ValueError: `every` or `peak_flops` is not positive.
        ValueError: from `fit`: it was given twice.
        HvdkitError: on every rank, before the first step: a sink can't be used at all.

    Example:
        >>> monitor = hvd.callbacks.Monitor(every=10)
        >>> history = model.fit(train, callbacks=[monitor], verbose=0)
    """

    measures_steps = True
    # Data of `hvd.shard` has logs of all ranks already, whatever callbacks have evaluated since.
    only_if_different = True

    def __init__(
        self,
        every: int = 10,
        sinks: Sequence[Sink] | None = None,
        *,
        alarms: Sequence[Lookout] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        peak_flops: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a positive number of steps, not {every!r}.")
        if peak_flops is not None and not peak_flops > 0:
            raise ValueError(f"peak_flops is a positive number of FLOP/s, not {peak_flops!r}.")
        self.every = every
        self.sample: Sample | None = None
        self._sinks = Sinks([Terminal()] if sinks is None else sinks)
        self._lookouts = Lookouts(default_alarms() if alarms is None else alarms, on_alarm)
        self._peak_flops = peak_flops
        self._ranks: MonitoredRanks | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin; the sinks get ready on the rank that speaks for all."""
        super().on_train_begin(logs)
        require_initialized("hvd.callbacks.Monitor")
        if self._ranks is not None:
            raise ValueError("fit got one hvd.callbacks.Monitor twice: give it once.")
        self.sample = None
        self._reader = Reader(step_times)
        self._optimizer = leading_optimizer(self.model)
        self._accumulated = accumulated_steps(self._optimizer)
        self._ranks = monitored_ranks(self.model)
        self._machine = Machine(
            self.model,
            functools.partial(inputs_seen, self.model),
            reads_host=self._ranks.first_on_host,
            peak_flops=self._peak_flops,
        )
        self._said_unknown = False
        self._means = MeanWindows(self.model)
        # Keras finds it anew each time that it is asked, which takes as long as reading moments.
        self._replicas = self.model.distribute_strategy.num_replicas_in_sync
        self._window: Window | None = None
        self._step = -1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The time since the last epoch counts nowhere."""
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch + 1
        self._means.begin_epoch()
        self._last_done: float | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Get ready for the first one; ask for the norm of the last of a sample."""
        self._first_batch = batch
        if self._step < 0:  # other callbacks have restored what they had to
            self._begin(steps_before(self._optimizer))
        if self._window is not None:
            # The last steps, of which one applies what has been accumulated.
            next_steps = self.model.steps_per_execution + self._accumulated - 1
            self._reader.wants_norm(self._window.steps + next_steps >= self.every)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count it, and make a sample if it is time."""
        begun, done = step_times.begun, step_times.done
        moments = self._reader.read(until=done)
        steps = self._steps_of_call(batch, moments)
        self._step += steps
        if self._window is None:  # the first one was traced
            self._means.since_last()
            self._new_window(moments)
        else:
            last = begun if self._last_done is None else self._last_done
            self._window.add(steps, moments, last, begun, done)
            if self._window.steps >= self.every:
                self._make_sample(self._window)
                self._new_window(moments)
        self._last_done = done

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Give the logs of all ranks to the sinks; other callbacks get theirs as they are."""
        self._means.end_epoch()
        of_all = self._over_ranks(dict(logs or {})) if self._in_fit else dict(logs or {})
        values = {name: float(value) for name, value in of_all.items() if _is_number(value)}
        if self._ranks is not None and self._ranks.speaks and self._step >= 0:
            self._sinks.log(Sample(self._step, epoch + 1, 0, time.time(), values))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Make a sample of the steps that are left, and give the model to who takes it."""
        super().on_train_end(logs)
        if self._window is not None and self._window.steps:
            self._make_sample(self._window)
        assert self._ranks is not None
        if self._step >= 0 and self._ranks.told_by_the_speaker(self._sinks.take_models):
            self._hand_over_model()

    def end_measuring(self) -> None:
        """The `fit` has ended, by itself or by an error; `fit` calls it."""
        if self._ranks is not None:
            self._reader.wants_norm(False)
        if self._ranks is not None and self._ranks.speaks and self._step >= 0:
            with pause("sending the last figures"):
                self._sinks.end()
                self._lookouts.end()
        self._ranks = None

    def _steps_of_call(self, batch: int, moments: Moments) -> int:
        """The steps of a call of the training function, which may be fewer than Keras says."""
        return round(moments.batches / self._replicas) or batch - self._first_batch + 1

    def _begin(self, before: int) -> None:
        """Let the sinks get ready, before the first step."""
        assert self._ranks is not None
        self._step = before
        problem, job = None, job_of(self.model, self._ranks, self.params, before)
        if self._ranks.speaks:
            self._lookouts.begin()
            try:
                self._sinks.begin(job)
            except HvdkitError as error:
                problem = str(error)
        raise_everywhere(problem, HvdkitError, self._ranks.process_set)

    def _new_window(self, moments: Moments) -> None:
        self._window = Window(moments)
        self._machine.begin()

    def _make_sample(self, window: Window) -> None:
        assert self._ranks is not None
        means = self._means.since_last()
        own = window.row(self._machine.readings(window.rows, window.seconds), means)
        rows = exchanged(own, self._ranks.process_set)
        ranks = rank_figures(rows, self._ranks.numbers, self._ranks.hosts)
        values = {
            **means_of(rows, metric_names(means)),
            **_settings(self._optimizer),
            **job_figures(ranks, rows, self._ranks.replicas),
        }
        now = time.time()
        sample = Sample(self._step, self._epoch, window.steps, now, values, ranks, window.sent)
        self.sample = sample
        if self._ranks.speaks:
            self._sinks.log(sample)
            for alarm in self._lookouts.look(sample):
                self._sinks.alarm(alarm)
            self._say_unknown()

    def _say_unknown(self) -> None:
        """Once: why the model's operations are not told, though the devices' peak is known."""
        if self._machine.unknown_flops and not self._said_unknown:
            self._said_unknown = True
            logger.warning("hvdkit: model FLOPs are left out: %s.", self._machine.unknown_flops)

    def _hand_over_model(self) -> None:
        """Save the model for the sinks that take it; all ranks, as some may hold shards of it."""
        assert self._ranks is not None
        bring_together(self.model)
        mesh = mesh_of(self._optimizer)
        if not self._ranks.speaks and (mesh is None or not mesh.is_model_parallel):
            return
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model.keras"))
            self.model.save(path)
            if self._ranks.speaks:
                self._sinks.model(path)


def _settings(optimizer: Any) -> dict[str, float]:
    """What a training was set to in the last step."""
    if optimizer is None:
        return {}
    settings = {"learning_rate": learning_rate(optimizer)}
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        settings["loss_scale"] = float(keras.ops.convert_to_numpy(optimizer.dynamic_scale))
    return settings


def _is_number(value: Any) -> bool:
    kind = np.asarray(value).dtype
    is_real = np.issubdtype(kind, np.number) and not np.issubdtype(kind, np.complexfloating)
    return np.ndim(value) == 0 and is_real
