"""One rank of benchmarks/consistency.py: training steps and checks, in turn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import hvdkit as hvd

WARM_UP = 3


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(model_name: str, rounds: int) -> None:
    """Print the seconds of each step and each check."""
    hvd.init()
    import keras
    import numpy as np
    from models import MODELS

    from hvdkit.state.digest import Digests
    from hvdkit.state.inventory import agreeing, inventory

    hvd.set_random_seed(0)
    model, x, y, _ = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss=loss)
    model.train_on_batch(x, y)
    variables = [row.variable for row in agreeing(inventory(model))]
    digests = Digests(variables)
    seconds: dict[str, list[float]] = {"step": [], "check": []}
    for number in range(WARM_UP + rounds):
        step = _timed(lambda: model.train_on_batch(x, y))
        hvd.barrier()
        check = _timed(digests.differing)
        if number >= WARM_UP:
            seconds["step"].append(step)
            seconds["check"].append(check)
    numbers = int(sum(np.prod(variable.shape) for variable in variables))
    line = {**seconds, "numbers": numbers, "variables": len(variables)}
    sys.stdout.write(f"CONSISTENCY {json.dumps(line)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
