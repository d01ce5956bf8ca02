"""What a save costs the training: the GPT of models.py with two ranks.

python benchmarks/checkpoint.py [--steps 60] [--every 10] [--directory DIR]

Each step is timed from one end of a batch to the next, with a save every so many batches. The
stall of a save is what its steps (the one with the copy, and the ones while files are written)
take more than the median of the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def worker(directory: str, result: str, steps: int, every: int) -> None:
    """One rank: train, and write down the seconds of each step."""
    import hvdkit as hvd

    hvd.init()

    import keras
    import tensorflow as tf
    from models import MODELS

    times: list[float] = []

    class StepTimes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

    model, x, y, batch = MODELS["gpt"]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-4)), loss=loss)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).cache().repeat()
    data = data.prefetch(2).with_options(options)
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.BackupAndRestore(directory, save_freq=every, preemption=False),
        StepTimes(),
    ]
    # The times are taken before the save, so a save counts for the step after it.
    model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    if hvd.rank() == 0:
        Path(result).write_text(json.dumps(times))


def main() -> None:
    """Run the job and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--directory", help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.directory))
    result = folder / "times.json"
    options = ["--oversubscribe", "--bind-to", "none", sys.executable, __file__, "worker"]
    numbers = [str(arguments.steps), str(arguments.every)]
    try:
        subprocess.run(
            ["mpirun", "-np", "2", *options, str(folder / "checkpoints"), str(result), *numbers],
            check=True,
            timeout=600,
        )
        ends = json.loads(result.read_text())
        size = sum(f.stat().st_size for f in next(folder.glob("*/checkpoint-*")).iterdir())
    finally:
        shutil.rmtree(folder)
    report(ends, arguments.every, size)


def report(ends: list[float], every: int, size: int) -> None:
    """Print the step time, and what a save adds.

    Args:
        ends: seconds at the ends of the batches.
        every: batches from one save to the next.
        size: bytes of a checkpoint.
    """
    steps = [1e3 * (b - a) for a, b in itertools.pairwise(ends)]
    # steps[i] ends batch i + 2; the first saves are warm-up.
    groups = [steps[start : start + every] for start in range(every - 1, len(steps), every)]
    groups = [group for group in groups if len(group) == every][1:]
    plain = statistics.median(step for group in groups for step in group[every // 2 :])
    stall = statistics.median(group[0] - plain for group in groups)
    whole = statistics.median(sum(step - plain for step in group) for group in groups)
    print(f"a checkpoint                        {size / 1e6:.1f} MB")
    print(f"a step without a save               {plain:.0f} ms (median)")
    print(f"the step with the save takes        {stall:.0f} ms more (median of {len(groups)})")
    print(f"all steps from save to save take    {whole:.0f} ms more, {whole / plain:.2f} steps")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
