"""One rank of benchmarks/step_time.py: train until stopped, and log when each step ended."""

from __future__ import annotations

import sys
from typing import Any

from step_log import StepLog

WARM_UP = 8


def main(model_name: str, variant: str, folder: str) -> None:
    """Train a model of `models.py` in a way of `step_time.VARIANTS` or `exchange_methods`."""
    if variant == "stock":
        import horovod.tensorflow as engine

        engine.init()
    else:
        import hvdkit as engine

        engine.init(consistency_check=False)  # the ranks start from different weights

    import keras
    import tensorflow as tf
    from models import MODELS

    log = StepLog(folder, engine.rank(), WARM_UP)

    class StepTimes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            log.step()

    class StockAdam(keras.optimizers.Adam):
        """What Horovod's optimizer does with gradients, where Keras 3 calls it."""

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            super().apply([engine.allreduce(g) for g in grads], trainable_variables)

    if variant == "stock":
        optimizer = StockAdam(1e-4)
    else:
        from exchange_methods import distributed

        method = "allreduce" if variant == "hvdkit" else variant
        optimizer = distributed(keras.optimizers.Adam(1e-4), method)
    keras.utils.set_random_seed(engine.rank())
    model, x, y, batch = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
    data = data.cache().repeat().prefetch(2).with_options(options)
    model.fit(data, steps_per_epoch=1_000_000, verbose=0, callbacks=[StepTimes()])


if __name__ == "__main__":
    main(*sys.argv[1:4])
