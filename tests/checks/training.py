"""Mixed precision, loops of one's own, local variables, saved files, XLA's limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.reference import (
    BATCH,
    STEPS,
    compare_with_one_process,
    data,
    mlp,
    my_rows,
    same_on_all_ranks,
)

import hvdkit as hvd
from hvdkit.optimizers.distributed import is_distributed

O = keras.optimizers  # noqa: E741


class HalfModel(keras.Model):
    """A model whose own policy is mixed_float16, so that compile() wraps its optimizer."""

    def __init__(self, seed: int) -> None:
        super().__init__(dtype="mixed_float16")
        keras.utils.set_random_seed(seed)
        self.hidden = keras.layers.Dense(8, activation="tanh", dtype="mixed_float16")
        self.out = keras.layers.Dense(2, dtype="float32")

    def build(self, shape: Any) -> None:
        self.hidden.build(shape)
        self.out.build((None, 8))
        self.built = True

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


def _build_half(seed: int) -> keras.Model:
    model = HalfModel(seed)
    model.build((None, 6))
    return model


def _small_rows() -> tuple[np.ndarray, np.ndarray]:
    """Targets so small that the scaled gradients overflow float16 with neither batch size."""
    x, y = data(hvd.size() * BATCH * STEPS)
    return x * 0.1, y * 0.01


def check_mixed_float16_wrapped_by_compile() -> None:
    model = compare_with_one_process(
        _build_half,
        lambda: O.SGD(0.1),
        lambda: hvd.DistributedOptimizer(O.SGD(0.1)),
        rows=_small_rows(),
        rtol=2e-2,
        atol=2e-3,
    )
    assert isinstance(model.optimizer, O.LossScaleOptimizer)


def check_mixed_float16_wrapped_by_the_user() -> None:
    for jit in (False, True):
        compare_with_one_process(
            _build_half,
            lambda: O.LossScaleOptimizer(O.Adam(0.02)),
            lambda: hvd.DistributedOptimizer(O.LossScaleOptimizer(O.Adam(0.02))),
            rows=_small_rows(),
            rtol=2e-2,
            atol=2e-3,
            compile_options={"jit_compile": jit},
        )


def _apply_step(optimizer: Any, variable: keras.Variable, *, eager: bool) -> Any:
    def step(gradient: tf.Tensor) -> None:
        optimizer.apply([gradient], [variable])

    return step if eager else tf.function(step)


def check_overflow_on_one_rank_skips_the_step_on_all() -> None:
    orders = (
        lambda o: hvd.DistributedOptimizer(O.LossScaleOptimizer(o, initial_scale=2.0**10)),
        lambda o: O.LossScaleOptimizer(hvd.DistributedOptimizer(o), initial_scale=2.0**10),
    )
    for make in orders:
        for eager in (False, True):
            variable = keras.Variable([1.0, 2.0])
            optimizer = make(O.SGD(0.1))
            optimizer.build([variable])
            run = _apply_step(optimizer, variable, eager=eager)
            last = hvd.rank() == hvd.size() - 1
            run(tf.constant([np.inf if last else 1.0, 1.0]))
            np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
            assert float(optimizer.dynamic_scale) == 2.0**9
            run(tf.constant([1.0, float(hvd.rank())]) * 2.0**9)
            mean_rank = (hvd.size() - 1) / 2
            np.testing.assert_allclose(variable.numpy(), [0.9, 2.0 - 0.1 * mean_rank], rtol=1e-6)


class OwnStepModel(keras.Model):
    """A functional model with a train_step of its own that does not call scale_loss."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def _own_step(seed: int) -> keras.Model:
    model = mlp(seed)
    return OwnStepModel(model.inputs, model.outputs)


def check_custom_train_step() -> None:
    for jit in (False, True):
        compare_with_one_process(
            _own_step,
            lambda: O.Adam(0.02),
            lambda: hvd.DistributedOptimizer(O.Adam(0.02)),
            compile_options={"jit_compile": jit},
        )


def check_custom_train_step_on_uneven_data() -> None:
    x, y = data(2 * hvd.size() * BATCH + 1)
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=O.SGD(0.1), loss="mse")
    reference.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    model = _own_step(0)
    model.set_weights(start)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.1)), loss="mse")
    model.fit(hvd.shard((x, y), BATCH, shuffle=False), verbose=0)
    for mine, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def check_two_optimizers_in_one_step() -> None:
    """As in a GAN: two reductions of equally shaped gradients in one graph."""
    a, b = keras.Variable([1.0, 1.0]), keras.Variable([1.0, 1.0])
    first, second = (hvd.DistributedOptimizer(O.SGD(1.0)) for _ in range(2))
    first.build([a])
    second.build([b])

    @tf.function
    def step(rank: tf.Tensor) -> None:
        first.apply([tf.stack([rank, 0.0])], [a])
        second.apply([tf.stack([0.0, rank])], [b])

    step(tf.constant(float(hvd.rank())))
    mean_rank = (hvd.size() - 1) / 2
    np.testing.assert_allclose(a.numpy(), [1 - mean_rank, 1])
    np.testing.assert_allclose(b.numpy(), [1, 1 - mean_rank])


def _loop_reference() -> tuple[Any, Any, Any]:
    x, y = data(hvd.size() * BATCH * STEPS)
    reference = mlp(0)
    start = reference.get_weights()
    reference.compile(optimizer=O.Adam(0.02), loss="mse")
    reference.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    return (x, y), start, reference.get_weights()


def _run_loop(mode: str, graph: bool) -> None:
    (x, y), start, expected = _loop_reference()
    model = mlp(100 + hvd.rank())
    if hvd.rank() == 0:
        model.set_weights(start)
    optimizer = O.Adam(0.02) if mode == "tape" else hvd.DistributedOptimizer(O.Adam(0.02))
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables(model.variables, root_rank=0)
    hvd.broadcast_variables(optimizer.variables, root_rank=0)
    loss_fn = keras.losses.MeanSquaredError()

    def step(bx: tf.Tensor, by: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = loss_fn(by, model(bx, training=True))
        if mode == "tape":
            tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    run = tf.function(step) if graph else step
    for number in range(STEPS):
        run(tf.constant(my_rows(x, number)), tf.constant(my_rows(y, number)))
    same_on_all_ranks(model)
    for mine, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


def check_loop_with_tape() -> None:
    _run_loop("tape", graph=False)
    _run_loop("tape", graph=True)


def check_loop_with_apply_gradients() -> None:
    _run_loop("optimizer", graph=False)
    _run_loop("optimizer", graph=True)


def check_tape_structures_none_and_local_sources() -> None:
    rank, size = float(hvd.rank()), hvd.size()
    used, unused, local = (tf.Variable(1.0) for _ in range(3))
    with tf.GradientTape(persistent=True) as tape:
        loss = used * (rank + 1) + local * (rank + 1)
    distributed = hvd.DistributedGradientTape(tape)
    distributed.register_local_source(local)
    result = distributed.gradient(loss, {"a": used, "b": [unused, local]})
    np.testing.assert_allclose(result["a"].numpy(), (size + 1) / 2)
    assert result["b"][0] is None
    np.testing.assert_allclose(result["b"][1].numpy(), (rank + 1) / size)
    mine, others = distributed.get_local_and_global_gradients(loss, [used, local])
    assert [source is local for source, _ in mine] == [True]
    assert [source is used for source, _ in others] == [True]


def check_partial_tape_and_optimizer() -> None:
    rank, size = float(hvd.rank()), hvd.size()
    for scale in (True, False):
        model = mlp(3)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.ones([1, 6]) * (rank + 1)))
        plain = tape.gradient
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_sum(model(tf.ones([1, 6]) * (rank + 1)))
        own = tape.gradient(loss, model.trainable_variables)
        del plain
        partial = hvd.PartialDistributedGradientTape(
            tape, local_layers=model.layers[-1], scale_local_gradients=scale
        )
        gradients = partial.gradient(loss, model.trainable_variables)
        everyone = hvd.allgather_object([g.numpy() for g in own])
        for i in (0, 1):
            mean = np.mean([other[i] for other in everyone], axis=0)
            np.testing.assert_allclose(gradients[i].numpy(), mean, rtol=1e-5, atol=1e-6)
        for i in (2, 3):
            expected = own[i].numpy() / (size if scale else 1)
            np.testing.assert_allclose(gradients[i].numpy(), expected, rtol=1e-6)
        optimizer = hvd.PartialDistributedOptimizer(
            O.SGD(1.0), local_layers=[model.layers[-1]], scale_local_gradients=scale
        )
        before = [v.numpy() for v in model.trainable_variables]
        optimizer.apply(own, model.trainable_variables)
        for i, variable in enumerate(model.trainable_variables):
            np.testing.assert_allclose(
                before[i] - variable.numpy(), gradients[i].numpy(), rtol=1e-4, atol=1e-5
            )


def check_local_variables_keep_their_gradients_in_fit() -> None:
    model = mlp(0)
    optimizer = hvd.DistributedOptimizer(O.SGD(0.1))
    for variable in model.layers[-1].trainable_variables:
        optimizer.register_local_var(variable)
    model.compile(optimizer=optimizer, loss="mse")
    x, y = data(16, seed=hvd.rank())
    model.fit(x, y, batch_size=4, verbose=0)
    weights = hvd.allgather_object(model.get_weights())
    if hvd.size() > 1:
        assert not np.array_equal(weights[0][2], weights[1][2])


_LOAD_ELSEWHERE = """
import sys
sys.modules["hvdkit"] = None
import keras
model = keras.models.load_model(sys.argv[1])
import json
print(json.dumps({"optimizer": type(model.optimizer).__module__, "iterations":
      int(model.optimizer.iterations), "variables": len(model.optimizer.variables)}))
"""


def check_saved_files_load_without_hvdkit_and_with_state() -> None:
    x, y = data(16, seed=hvd.rank())
    cases = {
        "adam": lambda: hvd.DistributedOptimizer(O.Adam(0.02)),
        "accumulating": lambda: hvd.DistributedOptimizer(O.Adam(0.02), backward_passes_per_step=2),
        "scaled": lambda: hvd.DistributedOptimizer(O.LossScaleOptimizer(O.Adam(0.02))),
    }
    folder = hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None)
    for name, make in cases.items():
        model = mlp(0)
        model.compile(optimizer=make(), loss="mse")
        model.fit(x, y, batch_size=4, verbose=0)
        path = os.path.join(folder, f"{name}.keras")
        if hvd.rank() == 0:
            model.save(path)
            with zipfile.ZipFile(path) as archive:
                assert "hvdkit" not in archive.read("config.json").decode()
            result = subprocess.run(
                [sys.executable, "-c", _LOAD_ELSEWHERE, path],
                capture_output=True,
                text=True,
                timeout=120,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
            loaded = json.loads(result.stdout.splitlines()[-1])
            assert loaded["optimizer"].startswith("keras."), loaded
            assert loaded["iterations"] == int(model.optimizer.iterations), (name, loaded)
            assert loaded["variables"] == len(model.optimizer.variables)
        hvd.barrier()
        options = {"backward_passes_per_step": 2} if name == "accumulating" else {}
        again = hvd.load_model(path, **options)
        assert is_distributed(again.optimizer)
        for mine, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=1e-6)
        again.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        same_on_all_ranks(again)
        for mine, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    hvd.barrier()
    if hvd.rank() == 0:
        for file in Path(folder).iterdir():
            file.unlink()
        os.rmdir(folder)


def check_xla_compiles_forward_and_backward() -> None:
    """The compiled part of the step is marked so in the graph, and the reduction is not in it."""
    x, y = data(16, seed=hvd.rank())
    model = mlp(0)
    model.compile(optimizer=hvd.DistributedOptimizer(O.SGD(0.1)), loss="mse", jit_compile=True)
    model.fit(x, y, batch_size=4, verbose=0)
    assert model.jit_compile
    if hvd.size() == 1:
        return
    from hvdkit.training import steps

    step = steps.split_at_optimizer(model, model.train_step)
    graph = tf.function(step).get_concrete_function((tf.constant(x[:4]), tf.constant(y[:4]))).graph
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    compiled = [f for f in functions.values() if f.attr["_XlaMustCompile"].b]
    assert compiled, "nothing is compiled"
    assert not any("Horovod" in node.op for f in compiled for node in f.node_def)
    assert any("Horovod" in op.type for op in graph.get_operations())


def check_sync_batch_normalization_under_xla_falls_back() -> None:
    x, y = data(16, seed=hvd.rank())
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), hvd.SyncBatchNormalization(), keras.layers.Dense(2)]
    )
    model.compile(optimizer=hvd.DistributedOptimizer("sgd"), loss="mse", jit_compile=True)
    model.fit(x, y, batch_size=4, verbose=0)
    same_on_all_ranks(model)


def check_optimizer_is_refused_when_it_can_not_work() -> None:
    for call, part in (
        (lambda: hvd.DistributedOptimizer(hvd.DistributedOptimizer("sgd")), "already"),
        (lambda: hvd.DistributedOptimizer(O.SGD(), op=hvd.Max), "Average"),
        (lambda: hvd.DistributedOptimizer(O.SGD(), backward_passes_per_step=0), "above 0"),
        (
            lambda: hvd.DistributedOptimizer(
                O.SGD(gradient_accumulation_steps=3), backward_passes_per_step=2
            ),
            "contradicts",
        ),
        (
            lambda: hvd.DistributedOptimizer(O.SGD(), op=hvd.Sum, gradient_predivide_factor=2.0),
            "Average",
        ),
    ):
        with pytest.raises(ValueError, match=part):
            call()


def check_overlap_buckets_in_backward_order() -> None:
    """In a graph there is more than one reduction, and each waits only for its own gradients."""
    if hvd.size() == 1:
        return
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((512,))] + [keras.layers.Dense(1024, "tanh") for _ in range(4)]
    )
    optimizer = hvd.DistributedOptimizer(O.SGD(0.1))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    graph = step.get_concrete_function(tf.ones([2, 512])).graph
    reductions = [op for op in graph.get_operations() if "HorovodAllreduce" in op.type]
    assert len(reductions) >= 4, [op.name for op in reductions]

    def ancestors(op: Any) -> set[str]:
        todo, seen = [op], set()
        while todo:
            for tensor in todo.pop().inputs:
                if tensor.op.name not in seen:
                    seen.add(tensor.op.name)
                    todo.append(tensor.op)
        return seen

    for reduction in reductions:
        assert not any("Horovod" in name for name in ancestors(reduction))
    # The kernels travel alone; the last reduction is that of the small biases together.
    depth = [len(ancestors(op)) for op in reductions[:-1]]
    assert depth == sorted(depth), "reductions are not in the order of the backward pass"
    assert depth[0] < depth[-1]
