"""One rank of benchmarks/step_time.py: train for some steps, and print each step's time.

mpirun -np 2 python benchmarks/step_worker.py gpt hvdkit 40
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

WARM_UP = 8


def main(model_name: str, variant: str, steps: int) -> None:
    """Train `steps` steps after the warm-up and print one JSON line on each rank."""
    if variant == "stock":
        import horovod.tensorflow as engine
    else:
        import hvdkit as engine
    engine.init()

    import keras
    import tensorflow as tf
    from models import MODELS

    class StepTimes(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.times.append(time.perf_counter())

    class StockAdam(keras.optimizers.Adam):
        """What Horovod's optimizer does with gradients, where Keras 3 calls it."""

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            super().apply([engine.allreduce(g) for g in grads], trainable_variables)

    optimizers = {
        "alone": lambda: keras.optimizers.Adam(1e-4),
        "stock": lambda: StockAdam(1e-4),
        "hvdkit": lambda: engine.DistributedOptimizer(keras.optimizers.Adam(1e-4)),
        "sum": lambda: engine.DistributedOptimizer(keras.optimizers.Adam(1e-4), op=engine.Sum),
    }
    keras.utils.set_random_seed(engine.rank())
    model, x, y, batch = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizers[variant](), loss=loss)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
    data = data.cache().repeat().prefetch(2).with_options(options)
    times = StepTimes()
    model.fit(data, steps_per_epoch=WARM_UP + steps, verbose=0, callbacks=[times])
    stamps = times.times[WARM_UP - 1 :]
    seconds = [b - a for a, b in itertools.pairwise(stamps)]
    line = {
        "rank": engine.rank(),
        "parameters": model.count_params(),
        "seconds": seconds,
    }
    sys.stdout.write(f"STEP_TIMES {json.dumps(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
