"""One rank of the jobs of benchmarks/parallel.py, which trains a GPT in one of its forms.

"times FOLDER" trains until it is stopped, and logs when each step ended; "memory" and "traffic"
train some steps, and rank 0 prints what each rank held, or what all sent.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from jobs import ROOT
from parallel_forms import FORMS, SHAPE, Form, ids_of_replica
from step_log import StepLog

import hvdkit as hvd
from hvdkit import parallel
from hvdkit.mesh.mesh import current_mesh

sys.path.insert(0, str(ROOT / "examples"))
from gpt_model import build_model, stage_cuts

WARM_UP, STEPS = 2, 4
CPU = "CPU:0"


class LogSteps(keras.callbacks.Callback):
    """Notes when each step ended."""

    def __init__(self, log: StepLog) -> None:
        super().__init__()
        self._log = log

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keras calls it."""
        self._log.step()


def build(form: Form) -> keras.Model:
    """The GPT, divided in one of the ways, and compiled."""
    hvd.set_random_seed(1)
    degrees = form.degrees
    model: keras.Model
    if degrees.pipeline > 1:
        model = parallel.PipelineModel(
            lambda: build_model(SHAPE, form.sequence_parallel),
            micro_batches=form.micro_batches,
            cuts=stage_cuts(SHAPE, degrees.pipeline),
        )
    else:
        model = build_model(SHAPE, form.sequence_parallel)
    if form.devices > 1:
        devices = [f"CPU:{number}" for number in range(form.devices)]
        model = parallel.split(
            model, devices, micro_batches=form.micro_batches, times="flops", verbose=False
        )
    optimizer = keras.optimizers.AdamW(1e-4, global_clipnorm=1.0)
    loss = parallel.VocabularyParallelCrossEntropy()
    model.compile(hvd.DistributedOptimizer(optimizer), loss)
    return model


def rows_of_replica(form: Form) -> tf.data.Dataset:
    """The rows of this rank's replica, the same in every step."""
    mesh = current_mesh()
    own = ids_of_replica(form, mesh.data_index if mesh else 0)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensors((own[:, :-1], own[:, 1:]))
    return data.repeat().with_options(options)


def train_until_stopped(form: Form, folder: str) -> None:
    """For `PausableJob`."""
    log = StepLog(folder, hvd.rank(), WARM_UP)
    data, model = rows_of_replica(form), build(form)
    model.fit(data, steps_per_epoch=1_000_000, verbose=0, callbacks=[LogSteps(log)])


def memory(form: Form) -> dict[str, Any]:
    """What this rank holds, and how long a stage is idle."""
    tf.config.experimental.reset_memory_stats(CPU)
    before = tf.config.experimental.get_memory_info(CPU)["current"]
    data, model = rows_of_replica(form), build(form)
    model.fit(data, steps_per_epoch=WARM_UP, verbose=0)
    tf.config.experimental.reset_memory_stats(CPU)
    model.fit(data, steps_per_epoch=STEPS, verbose=0)
    report: dict[str, Any] = {}
    report["peak"] = tf.config.experimental.get_memory_info(CPU)["peak"] - before
    if isinstance(model, parallel.PipelineModel):
        with model.trace() as trace:
            model.fit(data, steps_per_epoch=STEPS, verbose=0)
        report["idle"] = float(np.median([timeline.bubble for timeline in trace.timelines]))
    of_blocks = [v for v in model.weights if "block_" in v.path]
    report["weights"], report["blocks"] = _bytes(model.weights), _bytes(of_blocks)
    report["optimizer"] = _bytes(model.optimizer.variables)
    return report


def traffic(form: Form) -> dict[str, Any]:
    """Bytes of a step on the loopback interface, which all ranks use in this job.

    What flows while nobody trains is measured before, and not counted.
    """
    data, model = rows_of_replica(form), build(form)
    model.fit(data, steps_per_epoch=WARM_UP, verbose=0)
    hvd.barrier()
    begin, sent = time.monotonic(), _loopback_bytes()
    time.sleep(3)
    idle = (_loopback_bytes() - sent) / (time.monotonic() - begin)
    hvd.barrier()
    begin, sent = time.monotonic(), _loopback_bytes()
    model.fit(data, steps_per_epoch=STEPS, verbose=0)
    hvd.barrier()
    in_all = _loopback_bytes() - sent - idle * (time.monotonic() - begin)
    return {"sent": in_all / STEPS}


def _loopback_bytes() -> int:
    """Source: proc_net(5); the ninth number of a line is what was sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    numbers = next(line.split(":")[1] for line in lines if line.strip().startswith("lo:"))
    return int(numbers.split()[8])


def _bytes(variables: list[Any]) -> int:
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables)


def main(name: str, measured: str, folder: str = "") -> None:
    """Train the model in a form."""
    form = FORMS[name]
    if form.devices > 1:
        logical = [tf.config.LogicalDeviceConfiguration()] * form.devices
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, logical)
    hvd.init()
    if form.degrees.ranks > 1:
        degrees = form.degrees
        hvd.set_mesh(hvd.Mesh(degrees.data, degrees.pipeline, degrees.tensor))
    if measured == "times":
        train_until_stopped(form, folder)
        return
    report = memory(form) if measured == "memory" else traffic(form)
    mesh = current_mesh()
    reports = hvd.allgather_object(report | {"stage": mesh.pipeline_index if mesh else 0})
    if hvd.rank() == 0:
        sys.stdout.write(f"PARALLEL {json.dumps({'ranks': reports})}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
