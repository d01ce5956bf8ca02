"""One rank of benchmarks/timeline.py: some steps of a model while Horovod's timeline records."""

from __future__ import annotations

import sys

import hvdkit as hvd

STEPS = 20


def main(model_name: str, file: str) -> None:
    """Train with the timeline on; rank 0 writes it to `file`."""
    hvd.init(consistency_check=False)  # so that the timeline holds training alone
    import keras
    import tensorflow as tf
    from models import MODELS

    model, x, y, batch = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss=loss)
    data = tf.data.Dataset.from_tensors((x[:batch], y[:batch])).cache().repeat()
    model.fit(data, steps_per_epoch=5, verbose=0)
    hvd.start_timeline(file)
    model.fit(data, steps_per_epoch=STEPS, verbose=0)
    hvd.barrier()
    hvd.stop_timeline()
    if hvd.rank() == 0:
        sys.stdout.write('TIMELINE {"done": true}\n')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
