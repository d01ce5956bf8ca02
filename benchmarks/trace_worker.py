"""One rank of benchmarks/trace.py: steps that are traced, and what tracing costs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import hvdkit as hvd

WARM, STEPS, ROUNDS = 5, 20, 3


def main(model_name: str, folder: str, wanted: str) -> None:
    """Train with a trace of the steps 10 to 12, or with none, one that waits, and one that runs."""
    hvd.init(consistency_check=False)  # so that the trace holds training alone
    import keras
    import tensorflow as tf
    from models import MODELS

    class Seconds(keras.callbacks.Callback):
        """Keeps when each step was done, and what the processors had done until then."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.done: list[tuple[float, float]] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.done.append((time.perf_counter(), time.process_time()))

    def built() -> tuple[keras.Model, Any]:
        model, x, y, batch = MODELS[model_name]()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss=loss)
        rows = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(batch)
        return model, rows.prefetch(2)

    def seconds_of_a_step(model: keras.Model, data: Any, *callbacks: Any) -> list[float]:
        seconds = Seconds()
        model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=[*callbacks, seconds])
        steps = list(zip(seconds.done[1:-2], seconds.done[2:-1], strict=True))
        return [min(after[i] - before[i] for before, after in steps) for i in range(2)]

    model, data = built()
    if wanted == "picture":
        traced = hvd.trace(folder, steps=(10, 12))
        model.fit(data, steps_per_epoch=12, verbose=0, callbacks=[traced])
        found: dict[str, Any] = {"file": str(traced.path)}
    else:
        noted, its_data = built()
        for each, rows in ((model, data), (noted, its_data)):
            waits = [hvd.trace(folder, steps=(10**9, 10**9))] if each is noted else []
            each.fit(rows, steps_per_epoch=WARM, verbose=0, callbacks=waits)
        found = {"without": [], "before": [], "inside": []}
        for _ in range(ROUNDS):
            found["without"].append(seconds_of_a_step(model, data))
            waits = hvd.trace(folder, steps=(10**9, 10**9))
            found["before"].append(seconds_of_a_step(noted, its_data, waits))
            all_steps = hvd.trace(folder, steps=(1, 1000))
            found["inside"].append(seconds_of_a_step(noted, its_data, all_steps))
    hvd.barrier()
    if hvd.rank() == 0:
        sys.stdout.write(f"TRACE {json.dumps(found)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
