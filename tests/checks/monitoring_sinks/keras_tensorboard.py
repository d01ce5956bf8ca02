"""Keras's own TensorBoard callback on several ranks, read by TensorBoard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.callbacks.of_hvdkit import shared_folder
from checks.hearing import heard
from checks.marks import long
from checks.reference import data, mlp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hvdkit as hvd

TensorBoard = keras.callbacks.TensorBoard
PARTS = ["train", "validation"]


def sharded(seed: int = 5) -> hvd.ShardedData:
    """Rows of which each rank gets its own."""
    return hvd.shard(data(32, seed=seed), batch_size=4)


def fit(*callbacks: Any, model: keras.Model | None = None) -> dict[str, list[float]]:
    """Two epochs with validation; what they logged, which is the same on all ranks."""
    model = model or mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse", metrics=["mae"])
    history = model.fit(
        sharded(), validation_data=sharded(6), epochs=2, verbose=0, callbacks=list(callbacks)
    ).history
    hvd.barrier()
    assert len(set(hvd.allgather_object(repr(history["val_loss"])))) == 1
    return history


def files_in(folder: Path) -> list[str]:
    """The folders of the files of events, one for each file."""
    return sorted(
        str(path.parent.relative_to(folder)) for path in folder.rglob("events.out.tfevents.*")
    )


def values(folder: Path, tag: str) -> list[float]:
    """A scalar that `summary.scalar` wrote."""
    events = EventAccumulator(str(folder)).Reload()
    return [float(tf.make_ndarray(each.tensor_proto)) for each in events.Tensors(tag)]


def end(folder: Path) -> None:
    hvd.barrier()
    if hvd.rank() == 0:
        shutil.rmtree(folder)
    hvd.barrier()


@keras.saving.register_keras_serializable("checks")
def seen(inputs: Any) -> Any:
    """The functions of a rank that writes hold this, and those of the others don't."""
    tf.summary.scalar("seen", tf.reduce_mean(inputs))
    return inputs


@long
def check_one_folder_is_written_once_and_those_of_each_rank_stay() -> None:
    folder = shared_folder()
    model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Lambda(seen), *mlp(0).layers])
    callbacks = [
        TensorBoard(str(folder / "all"), histogram_freq=1, write_images=True, update_freq="batch"),
        TensorBoard(str(folder / f"rank{hvd.rank()}")),
    ]
    with heard() as texts:
        history = fit(*callbacks, model=model)
    assert texts == []
    names = ["all", *(f"rank{rank}" for rank in range(hvd.size()))]
    assert files_in(folder) == [f"{name}/{part}" for name in names for part in PARTS]
    for name in ("all", f"rank{hvd.rank()}"):  # the figures of all ranks, in each of them
        train, validation = (folder / name / part for part in PARTS)
        np.testing.assert_allclose(values(train, "epoch_loss"), history["loss"])
        np.testing.assert_allclose(values(validation, "epoch_loss"), history["val_loss"])
        of_steps = values(validation, "evaluation_loss_vs_iterations")
        np.testing.assert_allclose(of_steps, history["val_loss"])
    events = EventAccumulator(str(folder / "all/train"), {"tensors": 0}).Reload()  # all of them
    # Keras's second callback writes its batches with the writer of the first one, too.
    steps = {each.step for each in events.Tensors("batch_loss")}
    assert steps == set(range(1, int(model.optimizer.iterations) + 1)), steps
    tags = events.Tags()["tensors"]
    assert any(tag.endswith("seen") for tag in tags), tags
    end(folder)


@long
def check_profiles_and_embeddings_are_written_once() -> None:
    folder = shared_folder()
    fit(TensorBoard(str(folder / "profile"), profile_batch=(2, 3)))
    assert len(list(folder.rglob("*.xplane.pb"))) == 1
    fit(TensorBoard(str(folder / "embeddings"), embeddings_freq=1))
    assert files_in(folder / "embeddings") == PARTS
    assert len(list(folder.rglob("keras_embedding*"))) == 2
    end(folder)


class _Own(TensorBoard):
    pass


@long
def check_a_subclass_is_said() -> None:
    folder = shared_folder()
    with heard() as texts:
        fit(_Own(str(folder)))
    assert len(texts) == (hvd.rank() == 0)
    assert all("_Own writes to" in text for text in texts)
    end(folder)


@long
def check_ranks_with_shards_of_one_model_write_once() -> None:
    folder = shared_folder()
    hvd.set_mesh(hvd.Mesh(tensor=hvd.size()))
    keras.utils.set_random_seed(3)
    parallel = hvd.parallel.ColumnParallelDense(2 * hvd.size())
    model = keras.Sequential([keras.layers.Input((6,)), parallel, hvd.parallel.RowParallelDense(2)])
    history = fit(
        TensorBoard(str(folder), histogram_freq=1, embeddings_freq=1),
        keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
        model=model,
    )
    assert files_in(folder) == PARTS
    np.testing.assert_allclose(values(folder / "train", "epoch_loss"), history["loss"])
    assert len(list(folder.rglob("keras_embedding*"))) == 2
    lines = (folder / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1"]
    end(folder)
