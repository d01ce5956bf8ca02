"""What is measured: when a stage did what, and how many activations it kept."""

from __future__ import annotations

import keras
import numpy as np
from checks.marks import long
from checks.pipeline_parallel.comparison import pipeline_model

import hvdkit as hvd
from hvdkit.mesh.mesh import current_mesh
from hvdkit.parallel import schedules

MICRO_BATCHES = 8


def build() -> keras.Model:
    layers = [keras.layers.Dense(16, activation="tanh") for _ in range(8)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])


@long
def check_a_timeline_of_all_stages() -> None:
    """It holds the actions of the plan, in an order that what they need allows."""
    x, y = np.ones((16, 6), "float32"), np.ones((16, 2), "float32")
    for schedule in (schedules.OneForwardOneBackward(), schedules.Interleaved(2)):
        model = pipeline_model(build, micro_batches=MICRO_BATCHES, schedule=schedule)
        model.compile("sgd", "mse")
        model.train_on_batch(x, y)
        with model.trace() as trace:
            for _ in range(2):
                model.train_on_batch(x, y)
        model.train_on_batch(x, y)  # not noted
        assert len(trace.timelines) == 2
        for timeline in trace.timelines:
            assert (timeline.kind, timeline.stages) == ("measured", hvd.size())
            plan = schedule.plan(hvd.size(), MICRO_BATCHES)
            ends = {}
            for stage, actions in enumerate(plan):
                spans = [span for span in timeline.spans if span.stage == stage]
                assert [span.action for span in spans] == actions
                ends |= {(stage, span.action): span.end for span in spans}
            for span in timeline.spans:
                needed = schedules.source(span.action, span.stage, hvd.size(), schedule.chunks)
                assert needed is None or ends[needed] <= span.start
            assert 0 <= timeline.bubble < 1
        assert len(set(hvd.allgather_object(repr(trace.timelines)))) == 1


@long
def check_activations_kept() -> None:
    """GPipe keeps those of all micro-batches, 1F1B at most as many as there are stages."""
    x, y = np.ones((16, 6), "float32"), np.ones((16, 2), "float32")
    kept = {}
    for schedule in (schedules.GPipe(), schedules.OneForwardOneBackward()):
        model = pipeline_model(build, micro_batches=MICRO_BATCHES, schedule=schedule)
        model.compile("sgd", "mse")
        model.train_on_batch(x, y)
        kept[repr(schedule)] = model.kept
    stage = current_mesh().pipeline_index
    assert kept["GPipe()"] == MICRO_BATCHES
    assert kept["OneForwardOneBackward()"] == min(MICRO_BATCHES, hvd.size() - stage)
