"""One rank of benchmarks/timeline.py: some steps of a model while Horovod's timeline records."""

from __future__ import annotations

import sys
from typing import Any

import hvdkit as hvd


def main(model_name: str, file: str) -> None:
    """Train with the timeline on; rank 0 writes it to `file`."""
    hvd.init()
    import keras
    from models import MODELS

    model, x, y, batch = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss=loss)

    def steps(count: int) -> Any:
        return model.fit(x, y, batch_size=batch, epochs=count, shuffle=False, verbose=0)

    steps(5)
    hvd.start_timeline(file)
    steps(5)
    hvd.barrier()
    hvd.stop_timeline()
    if hvd.rank() == 0:
        sys.stdout.write('TIMELINE {"done": true}\n')


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
