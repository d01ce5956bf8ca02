"""`hvd.trace`: what all ranks do in some steps."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import keras

from hvdkit import patches
from hvdkit.callbacks.monitored_ranks import monitored_ranks
from hvdkit.engine import (
    HvdkitError,
    ProcessSet,
    global_process_set,
    is_initialized,
    logger,
    raise_everywhere,
    require_same,
    several_ranks,
    topology,
)
from hvdkit.monitoring.trace.steps import checked_steps
from hvdkit.monitoring.trace.window import Window
from hvdkit.state.reachable import leading_optimizer
from hvdkit.watch.step_times import step_times


class Trace(keras.callbacks.Callback):
    """What `hvd.trace` returns.

    Attributes:
        path: the file, on all ranks; None as long as there is none.
    """

    measures_steps = True
    public_name = "hvd.trace"

    def __init__(
        self, directory: str | os.PathLike[str], steps: tuple[int, int], *, operations: bool
    ) -> None:
        super().__init__()
        self.path: Path | None = None
        self._directory = Path(directory)
        self._first, self._last = checked_steps(steps)
        self._operations = operations
        self._window: Window | None = None
        self._ranks: ProcessSet | None = None
        self._step, self._traced, self._done = -1, 0, False
        self._noting = contextlib.ExitStack()

    # As a callback.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """See that the trace can be written."""
        ranks = monitored_ranks(self.model) if is_initialized() else None
        self._start(ranks.process_set if ranks is not None else None)
        self._optimizer = leading_optimizer(self.model)
        self._step = -1

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras counts the last steps of an epoch, where they are fewer, as if they were not."""
        if self.model.steps_per_execution > 1:
            self._step = -1

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin with the first step."""
        if self._step < 0:  # other callbacks have restored what they had to
            optimizer = self._optimizer
            self._step = 0 if optimizer is None else int(optimizer.iterations)
        self._begin_if_due(self.model.steps_per_execution)
        self._batch, self._begun = batch, time.time()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End with the last step."""
        self._end_step(batch - self._batch + 1)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Note when a validation begins."""
        self._validation = time.time()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Note a validation."""
        if self._window is not None:
            self._window.add("validation", self._validation, time.time())

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Write what there is."""
        self._finish("this fit")

    def end_measuring(self) -> None:
        """The `fit` has ended, by itself or by an error; `fit` calls it."""
        self._abandon()

    # Around a loop of one's own.

    def __enter__(self) -> Trace:
        self._start(global_process_set if several_ranks() else None)
        self._noting.enter_context(step_times.noted())
        self._step = 0
        self._begin_if_due(1)
        self._begun = time.time()
        return self

    def step(self) -> None:
        """Say that a step is done, on every rank."""
        if self._step < 0:
            raise ValueError("step() is for the block of `with hvd.trace(...) as trace:`.")
        self._end_step(1)
        self._begin_if_due(1)
        self._begun = time.time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._noting.close()
        if error is None:
            self._finish("this loop")
        self._abandon()
        self._step = -1

    # In both.

    def _start(self, ranks: ProcessSet | None) -> None:
        self._ranks, problem = ranks, None
        if ranks is not None:
            given = [("steps", self._first, self._last), ("operations", self._operations)]
            require_same("the arguments of hvd.trace", given, ranks)
        if self._writes():
            problem = self._why_not_writable()
        raise_everywhere(problem, HvdkitError, ranks)

    def _writes(self) -> bool:
        if self._ranks is None:
            return True
        return topology.rank() == topology.process_set_ranks(self._ranks)[0]

    def _why_not_writable(self) -> str | None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".trace-"):
                return None
        except OSError as error:
            return f"hvd.trace can't write to {self._directory}: {error}"

    def _begin_if_due(self, steps: int) -> None:
        """Begin, if the next `steps` steps hold the first one, or are after it."""
        if self._window is not None or self._done:
            return
        if self._step < self._last and self._step + steps >= self._first:
            self._window = Window(self._ranks, operations=self._operations)
            self._window.begin()
            self._traced = 0

    def _end_step(self, steps: int) -> None:
        end, before = time.time(), self._step
        self._step += steps
        if self._window is None:
            return
        if not self._traced:
            self._from = before + 1
        self._traced += steps
        self._window.add_steps(before + 1, self._step, self._begun, end)
        if self._step >= self._last:
            self._write()

    def _finish(self, what: str) -> None:
        if self._window is not None and self._traced:
            self._write()
        elif not self._done and self._writes():
            logger.warning(
                "hvdkit: hvd.trace has traced nothing: %s ended after step %d, and steps=(%d, %d) "
                "did not come in it.",
                what,
                max(self._step, 0),
                self._first,
                self._last,
            )

    def _write(self) -> None:
        assert self._window is not None
        window, self._window, self._done = self._window, None, True
        path = self._directory / f"steps-{self._from}-{self._step}{self._of_whom()}.json.gz"
        if window.finish(path, {"steps": [self._from, self._step]}):
            self.path = path

    def _of_whom(self) -> str:
        """Several trainings of a job write several files."""
        if not is_initialized() or topology.size() == 1:
            return ""
        if self._ranks is None:
            return f"-rank-{topology.rank()}"
        members = topology.process_set_ranks(self._ranks)
        return "" if len(members) == topology.size() else f"-ranks-from-{members[0]}"

    def _abandon(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            window.abandon()


def trace(
    directory: str | os.PathLike[str], steps: tuple[int, int], *, operations: bool = False
) -> Trace:
    """Trace what all ranks do in some steps; one file, which https://ui.perfetto.dev shows.

    Each rank has tracks for its steps, the wait for a batch and the making of batches, forward and
    backward pass, the optimizer, each collective with its bytes, checkpoints and pauses; the clocks
    of the hosts are compared, so that what stands below each other happened together. In a job
    started with `HOROVOD_TIMELINE=DYNAMIC` it also shows Horovod's negotiation and operations.

    Every rank gives it to `fit`, among its callbacks; or takes it around a loop of its own, and
    calls `step()` after each step, as often on each rank. What is traced before the block (with
    `tf.function`) notes no moments, and shows as plain steps.

    Args:
        directory: where the first rank writes `steps-100-110.json.gz`.
        steps: the first and the last one, both included; 1000 at most. In `fit` they are those of
            the optimizer's `iterations`, so that earlier fits and resumed steps count; in a loop of
            one's own the first one is 1. A `fit` or loop that ends between the two writes what
            there is.
        operations: whether to show each operation of TensorFlow, too.

    Returns:
        A callback; its `path` is the file, once it is written.

    Raises:
        ValueError: `steps` are none.
        HvdkitError: on every rank, before the first step: the directory can't be written.
        RankMismatchError: on every rank: they were given different arguments.

    Example:
        >>> model.fit(train, callbacks=[hvd.trace("logs", steps=(100, 110))])

        In a loop of one's own:

        >>> with hvd.trace("logs", steps=(100, 110)) as trace:
        ...     for x, y in train:
        ...         train_step(x, y)
        ...         trace.step()
    """
    patches.need(patches.FIT)
    return Trace(directory, steps, operations=operations)
