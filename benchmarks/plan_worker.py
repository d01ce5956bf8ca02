"""One rank of the jobs of benchmarks/plan.py, which train a GPT in several forms.

    plan_worker.py times FORMS ROUNDS SECONDS    # ms a step, each form in its turn
    plan_worker.py memory FORMS                  # the most that TensorFlow had allocated for each

All forms are in one job, so that TensorFlow is loaded once. Rank 0 prints what it is doing, and in
the end one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from parallel_forms import FORMS, Form
from parallel_worker import CPU, WARM_UP, build, rows_of_replica

import hvdkit as hvd

SHARDED = "sharded"
MARK = "PLAN"
_LEAST_STEPS, _MOST_STEPS = 3, 20  # of a turn


class StepTimes(keras.callbacks.Callback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras calls it."""
        self._ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        """Seconds of a step; without the first, which also begins the epoch."""
        return statistics.median(b - a for a, b in itertools.pairwise(self._ends))


@dataclass
class Trained:
    """A form that has been built.

    Attributes:
        mesh: over which it is divided.
        data: its rows, again and again.
        model: compiled.
        turns: ms of a step, the median of each turn, of the slower rank.
    """

    mesh: hvd.Mesh
    data: tf.data.Dataset
    model: keras.Model
    turns: list[float] = field(default_factory=list)

    def run(self, steps: int) -> float:
        """Seconds of a step, of some, on the slower rank."""
        hvd.set_mesh(self.mesh)
        times = StepTimes()
        self.model.fit(
            self.data, steps_per_epoch=steps + 1, shuffle=False, verbose=0, callbacks=[times]
        )
        return max(hvd.allgather_object(times.median))


def built(name: str) -> Trained:
    """A form, on its mesh."""
    form = FORMS["data" if name == SHARDED else name]
    mesh = hvd.Mesh(form.degrees.data, form.degrees.pipeline, form.degrees.tensor)
    hvd.set_mesh(mesh)
    return Trained(mesh, rows_of_replica(form), _model(name, form))


def _model(name: str, form: Form) -> keras.Model:
    model = build(form)
    if name == SHARDED:
        optimizer = keras.optimizers.AdamW(1e-4, global_clipnorm=1.0)
        exchange = hvd.exchange.Sharded()
        model.compile(hvd.DistributedOptimizer(optimizer, exchange=exchange), model.loss)
    return model


def times(names: list[str], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Ms of a step of each form, for each turn."""
    forms = {}
    for name in names:
        forms[name] = built(name)
        forms[name].run(WARM_UP)
        _say(f"{name} has made its first steps")
    steps = dict.fromkeys(names, _LEAST_STEPS)
    for number in range(rounds):
        # Who comes first in a round is a little faster, so the order changes.
        for name in names[:: -1 if number % 2 else 1]:
            step = forms[name].run(steps[name])
            forms[name].turns.append(1000 * step)
            steps[name] = min(max(round(seconds / step), _LEAST_STEPS), _MOST_STEPS)
        last = ", ".join(f"{name} {each.turns[-1]:.0f}" for name, each in forms.items())
        _say(f"round {number + 1} of {rounds}: {last} ms a step")
    return {name: each.turns for name, each in forms.items()}


def memory(names: list[str]) -> dict[str, int]:
    """Bytes that TensorFlow had allocated at most for each form, on the rank that needs most."""
    peaks = {}
    forms = []  # what was measured stays, or its end would be taken for memory of the next
    for name in names:
        tf.config.experimental.reset_memory_stats(CPU)
        before = tf.config.experimental.get_memory_info(CPU)["current"]
        forms.append(built(name))
        forms[-1].run(WARM_UP)
        tf.config.experimental.reset_memory_stats(CPU)
        forms[-1].run(_LEAST_STEPS)
        peak = tf.config.experimental.get_memory_info(CPU)["peak"] - before
        peaks[name] = max(hvd.allgather_object(peak))
        _say(f"memory of {name} is measured")
    return peaks


def _say(text: str) -> None:
    if hvd.rank() == 0:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def main(what: str, forms: str, *numbers: str) -> None:
    """Train, and print what was found."""
    hvd.init()
    names = forms.split(",")
    if what == "times":
        rounds, seconds = numbers
        _say(f"{MARK} {json.dumps(times(names, int(rounds), float(seconds)))}")
    else:
        _say(f"{MARK} {json.dumps(memory(names))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
