"""Steps of `fit` on all ranks in one file."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.hearing import heard
from checks.marks import long
from checks.reference import data, mlp
from checks.trace.files import TraceFile, inside, shared_folder

import hvdkit as hvd

BYTES = 4 * 74  # of the model's gradients


def model_of_all(**options: Any) -> keras.Model:
    model = mlp(1)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "mse", **options)
    return model


def fit(model: keras.Model, *callbacks: Any, steps: int = 6, epochs: int = 1) -> None:
    """Other rows on each rank."""
    x, y = data(4 * steps, seed=hvd.rank())
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))


class Pauses(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        with hvd.pause(f"after batch {batch}"):
            pass


def check_steps_of_all_ranks_are_in_one_file() -> None:
    with shared_folder() as folder:
        traced = hvd.trace(folder / "new" / "folder", steps=(3, 4), operations=True)
        fit(model_of_all(), traced, Pauses())
        assert traced.path == folder / "new" / "folder" / "steps-3-4.json.gz"
        trace = TraceFile(traced.path)
        require_all_of_the_steps(trace)
        require_one_meeting(trace)
        assert traced.path.stat().st_size < 200_000
        others = [path for path in traced.path.parent.iterdir() if path != traced.path]
        assert not others


def require_all_of_the_steps(trace: TraceFile) -> None:
    """Each rank has all that a step consists of, with the bytes of its gradients."""
    ranks = [f"rank {rank}" for rank in range(hvd.size())]
    assert list(trace.processes.values()) == [*ranks, "Horovod"]
    for rank in ranks:
        steps = trace.on(rank, "steps")
        assert [step["name"] for step in steps] == ["step 3", "step 4"]
        for step in steps:
            passes = [each for each in trace.on(rank, "forward and backward") if inside(each, step)]
            assert [each["name"] for each in passes] == ["forward", "backward"]
            [wait] = [each for each in trace.on(rank, "input") if inside(each, step)]
            [update] = [each for each in trace.on(rank, "optimizer") if inside(each, step)]
            assert wait["ts"] + wait["dur"] <= passes[0]["ts"] + 0.001
            assert passes[1]["ts"] + passes[1]["dur"] <= update["ts"] + 0.001
            own = [each for each in trace.on(rank, "collectives") if inside(each, step)]
            sums = [each for each in own if "bucket" in each["name"]]
            assert sum(each["args"]["bytes"] for each in sums) == BYTES, sums
        assert {"after batch 2", "after batch 3"} & set(
            trace.names(rank, "checkpoints and pauses")
        ) == {"after batch 2"}, "what is after the last step is not in the trace"
        assert any("gradient_tape" in e["args"]["operation"] for e in trace.on(rank, "TensorFlow"))
    assert "making batches" in trace.threads("rank 0")
    horovod = trace.names("Horovod", "operations")
    assert sum("bucket" in name for name in horovod) >= 2, horovod
    assert {"NEGOTIATE_ALLREDUCE", "ALLREDUCE"} <= set(horovod)


def require_one_meeting(trace: TraceFile) -> None:
    """A collective ends on no rank before it has begun on all."""
    own = [trace.on(f"rank {rank}", "collectives") for rank in range(hvd.size())]
    for name in {each["name"] for each in own[0] if "bucket" in each["name"]}:
        for same in zip(*([e for e in some if e["name"] == name] for some in own), strict=True):
            begun, done = max(e["ts"] for e in same), min(e["ts"] + e["dur"] for e in same)
            assert begun <= done, same


@long
def check_a_fit_that_ends_inside_writes_what_there_is() -> None:
    with shared_folder() as folder, heard() as texts:
        model = model_of_all()
        late = hvd.trace(folder, steps=(5, 50))
        early, never = hvd.trace(folder, steps=(1, 2)), hvd.trace(folder, steps=(70, 80))
        fit(model, late, early, never, epochs=2)  # of 6 steps
        assert late.path is not None
        assert late.path.name == "steps-5-12.json.gz"
        assert TraceFile(late.path).names("rank 1", "steps")[-1] == "step 12"
        assert early.path is not None
        assert "step 1" in TraceFile(early.path).names("rank 0", "steps")
        assert never.path is None
        said = [text for text in texts if "hvd.trace" in text]
        assert len(said) == (hvd.rank() == 0), said
        assert all("ended after step 12" in text and "steps=(70, 80)" in text for text in said)
        again = hvd.trace(folder, steps=(13, 13))  # steps of earlier fits count
        fit(model, again, steps=2)
        assert again.path is not None


@long
def check_traces_at_once() -> None:
    """There is one profiler: the second has all but what it finds."""
    with shared_folder() as folder:
        first = hvd.trace(folder / "a", steps=(2, 3))
        second = hvd.trace(folder / "b", steps=(2, 4))
        fit(model_of_all(), first, second)
        assert first.path is not None
        assert second.path is not None
        whole, less = TraceFile(first.path), TraceFile(second.path)
        assert not whole.about["left out"]
        assert "forward" in whole.names("rank 0", "forward and backward")
        passes = less.on("rank 0", "forward and backward")
        assert {each["name"] for each in passes} == {"forward and backward"}, less.slices
        assert len(less.about["left out"]) == 2
        require_one_meeting(less)


class Fails(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 2:
            raise KeyError("in the middle")


@long
def check_an_error_inside_ends_what_was_started() -> None:
    with shared_folder() as folder:
        model, traced = model_of_all(), hvd.trace(folder, steps=(2, 5))
        try:
            fit(model, traced, Fails())
        except KeyError:
            pass
        else:
            raise AssertionError("the error of the callback is gone")
        assert traced.path is None
        assert not list(folder.iterdir())
        # Both can be started again.
        after = hvd.trace(folder, steps=(4, 4))
        fit(model, after, steps=2)
        assert after.path is not None
        assert not TraceFile(after.path).about["left out"]


@long
def check_several_steps_in_a_call() -> None:
    with shared_folder() as folder:
        traced = hvd.trace(folder, steps=(3, 3))
        fit(model_of_all(steps_per_execution=2), traced)
        assert traced.path is not None
        assert traced.path.name == "steps-3-4.json.gz"
        trace = TraceFile(traced.path)
        for rank in range(hvd.size()):
            assert trace.names(f"rank {rank}", "steps") == ["steps 3-4"]
            assert len(trace.on(f"rank {rank}", "input")) == 2
            own = trace.on(f"rank {rank}", "collectives")
            assert sum(e["args"]["bytes"] for e in own if "bucket" in e["name"]) == BYTES
        require_one_meeting(trace)


@long
def check_eager_steps() -> None:
    with shared_folder() as folder:
        traced = hvd.trace(folder, steps=(3, 4))
        fit(model_of_all(run_eagerly=True), traced)
        assert traced.path is not None
        trace = TraceFile(traced.path)
        for rank in range(hvd.size()):
            assert trace.names(f"rank {rank}", "steps") == ["step 3", "step 4"]
            passes = trace.names(f"rank {rank}", "forward and backward")
            assert passes == ["forward and backward"] * 2
            own = trace.on(f"rank {rank}", "collectives")
            assert sum(e["args"]["bytes"] for e in own if "bucket" in e["name"]) == 2 * BYTES
        require_one_meeting(trace)


@long
def check_a_training_step_of_ones_own_and_checkpoints() -> None:
    class Own(keras.Model):
        def train_step(self, batch: Any) -> dict[str, Any]:
            x, y = batch
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    plain = mlp(1)
    model = Own(plain.inputs, plain.outputs)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)))
    with shared_folder() as folder:
        traced = hvd.trace(folder / "trace", steps=(2, 5))
        backup = hvd.callbacks.BackupAndRestore(folder / "saved", save_freq=3)
        fit(model, traced, backup)
        assert traced.path is not None
        trace = TraceFile(traced.path)
        for rank in range(hvd.size()):
            assert (
                trace.names(f"rank {rank}", "forward and backward") == ["forward", "backward"] * 4
            )
            kept = trace.names(f"rank {rank}", "checkpoints and pauses")
            assert {"saving a checkpoint", "writing a checkpoint, beside the training"} <= set(kept)


@long
def check_ranks_without_a_distributed_optimizer_write_files_of_their_own() -> None:
    model = mlp(1)
    model.compile("sgd", "mse")
    with shared_folder() as folder:
        traced = hvd.trace(folder, steps=(2, 3))
        fit(model, traced, hvd.callbacks.ConsistencyCheck(at_start=False))
        assert traced.path is not None
        assert traced.path.name == f"steps-2-3-rank-{hvd.rank()}.json.gz"
        trace = TraceFile(traced.path)
        assert next(iter(trace.processes.values())) == f"rank {hvd.rank()}"
        passes = trace.names(f"rank {hvd.rank()}", "forward and backward")
        assert passes == ["forward", "backward"] * 2
        assert np.all([e["dur"] > 0 for e in trace.on(f"rank {hvd.rank()}", "optimizer")])
