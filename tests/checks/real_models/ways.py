"""The ways in which hvdkit trains a model; each has to give what plain Keras gives."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from checks.checkpoints.runs import StopAt, Stopped, shared_folder
from checks.real_models import files
from checks.real_models.devices import DEVICES
from checks.real_models.training import (
    EPOCH_STEPS,
    EPOCHS,
    GLOBAL_BATCH,
    RealModel,
    Trained,
    alone,
    require_same,
)
from checks.real_models.weights import densified, order_in
from checks.reference import same_on_all_ranks

import hvdkit as hvd

STOPPED_AFTER = 7  # steps: in the middle of the second epoch


class Steps(keras.callbacks.Callback):
    """Counts the steps of one `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.count += 1

    def get_state(self) -> None:
        """Nothing: it counts what this process does."""

    def set_state(self, state: None) -> None:
        """See `get_state`."""


def over_ranks(real: RealModel) -> Trained:
    """Each rank trains on its part of each global batch, and starts with weights of its own."""
    trained = trained_over_ranks(real)
    files.write(real, trained, real.over_ranks)
    return trained


def trained_over_ranks(real: RealModel, *callbacks: Any) -> Trained:
    """The training of `over_ranks`, which leaves no files."""
    model = real.made_on_this_rank()
    real.compile(model, hvd.DistributedOptimizer)
    data = _part(real.data)
    history = model.fit(
        data,
        validation_data=None if real.only_fits else _part(real.some_rows),
        epochs=EPOCHS,
        verbose=0,
        callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), *callbacks],
    ).history
    same_on_all_ranks(model)
    results, predictions = {}, None
    if not real.only_fits:
        results = model.evaluate(data, verbose=0, return_dict=True)
        rows = -(-real.rows // hvd.size())
        predictions = model.predict(_part(real.data[:1], rows), verbose=0)
    trained = Trained(model, history, results, predictions, model.get_weights())
    require_same(trained, real)
    return trained


def _part(data: tuple[Any, ...], batch_size: int | None = None) -> hvd.ShardedData:
    """The rank's part of (x,), (x, y) or (x, y, sample_weight), in order."""
    batch_size = batch_size or GLOBAL_BATCH // hvd.size()
    return hvd.shard(data[0] if len(data) == 1 else data, batch_size=batch_size, shuffle=False)


def stopped_and_resumed(real: RealModel) -> Trained:
    """The training over ranks, stopped in the middle of an epoch and started again."""
    folder = shared_folder()
    backup = hvd.callbacks.BackupAndRestore(folder, save_freq=1)
    try:
        trained_over_ranks(real, backup, StopAt(STOPPED_AFTER))
    except Stopped:
        backup._saver._pool.shutdown()  # as if the process had ended
        hvd.barrier()
    steps = Steps()
    again = trained_over_ranks(real, hvd.callbacks.BackupAndRestore(folder, save_freq=1), steps)
    # What was being written when it stopped may be lost.
    assert 0 < steps.count < EPOCH_STEPS, f"it did not go on in the middle: {steps.count} steps"
    return again


def split_over_devices(real: RealModel, **options: Any) -> Trained:
    """The model's layers over two devices of each rank, trained on the whole data."""
    whole = real.made(1)
    trainable = len(whole.trainable_weights)
    model = hvd.parallel.split(whole, DEVICES, times="flops", verbose=False, **options)
    order = order_in(model, real.first_weights)
    assert len(model.trainable_weights) == trainable
    real.compile(model, densified)
    trained = alone(real, model)
    assert trained.weights is not None
    trained = replace(trained, weights=[trained.weights[place] for place in order])
    require_same(trained, real)
    if real.portable:
        files.require_reads_back(model, real, trained.predictions)
    return trained


def pipeline(real: RealModel, *, given: bool = False, **options: Any) -> Trained:
    """The model's layers over the ranks, made from a function, or from the model.

    Args:
        real: the model.
        given: whether the pipeline gets the model itself.
        **options: of `PipelineModel`.
    """
    with pipeline_mesh():
        build = functools.partial(real.made, 1)
        model = hvd.parallel.PipelineModel(build() if given else build, **options)
        for variable, mine, first in zip(
            real.reference.model.weights,
            model.gather_weights() or [],
            real.first_weights if hvd.rank() == 0 else [],
            strict=False,
        ):
            np.testing.assert_array_equal(mine, first, err_msg=f"{variable.path} at the start")
        real.compile(model, hvd.DistributedOptimizer)
        trained = alone(real, model)
        require_same(trained, real)
        files.write(real, trained)
    return trained


@contextlib.contextmanager
def pipeline_mesh() -> Iterator[None]:
    """Inside, all ranks are the stages of one pipeline."""
    hvd.set_mesh(_pipeline_of_all_ranks())
    try:
        yield
    finally:
        hvd.set_mesh(None)


@functools.cache
def _pipeline_of_all_ranks() -> hvd.Mesh:
    return hvd.Mesh(pipeline=hvd.size())
