"""A pipeline: what each stage does when."""

from __future__ import annotations

import keras
import numpy as np
from checks.pipeline_parallel.comparison import pipeline_model
from checks.trace.files import TraceFile, shared_folder

import hvdkit as hvd
from hvdkit.parallel import schedules

MICRO_BATCHES = 4


def check_actions_of_the_stages() -> None:
    def build() -> keras.Model:
        layers = [keras.layers.Dense(16, activation="tanh") for _ in range(4)]
        return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])

    schedule = schedules.OneForwardOneBackward()
    model = pipeline_model(build, micro_batches=MICRO_BATCHES, schedule=schedule)
    model.compile("sgd", "mse")
    x, y = np.ones((32, 6), "float32"), np.ones((32, 2), "float32")
    with shared_folder() as folder:
        traced = hvd.trace(folder, steps=(2, 3))
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=[traced])
        assert traced.path is not None
        trace = TraceFile(traced.path)
    for stage, actions in enumerate(schedule.plan(hvd.size(), MICRO_BATCHES)):
        found = trace.names(f"rank {stage}", "pipeline stage")
        assert found == [str(action) for action in actions] * 2
        assert trace.names(f"rank {stage}", "steps") == ["step 2", "step 3"]
