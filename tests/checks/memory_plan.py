"""The plan of memory: formulas of the sources, and what ranks really hold."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import keras
import psutil
import tensorflow as tf
from checks.marks import long
from launch import ROOT

import hvdkit as hvd
from hvdkit import parallel
from hvdkit.planner.activation_memory import MEGATRON
from hvdkit.planner.memory_limit import _left_in_cgroups

sys.path.insert(0, str(ROOT / "examples"))
from gpt_model import PRESETS, build_model, stage_cuts

SHAPE = parallel.TransformerShape(layers=2, width=64, heads=4, context=32, vocabulary=256)
ROWS = 3  # so that no weight has as many rows as there are tokens


def close(found: float, expected: float, tolerance: float = 0.01) -> None:
    assert abs(found - expected) <= tolerance * expected, (found, expected)


def meshes() -> Iterator[hvd.Mesh]:
    """All meshes of this job's ranks, each in place."""
    sizes = range(1, hvd.size() + 1)
    try:
        for data, pipeline, tensor in itertools.product(sizes, sizes, sizes):
            if data * pipeline * tensor == hvd.size() and SHAPE.layers % pipeline == 0:
                mesh = hvd.Mesh(data, pipeline, tensor)
                hvd.set_mesh(mesh)
                yield mesh
    finally:
        hvd.set_mesh(None)


def degrees_of(mesh: hvd.Mesh) -> parallel.Degrees:
    return parallel.Degrees(mesh.data, mesh.pipeline, mesh.tensor)


def model_on(mesh: hvd.Mesh, shape: parallel.TransformerShape, micro_batches: int) -> keras.Model:
    """This rank's part of a GPT."""
    if mesh.pipeline == 1:
        return build_model(shape)
    return parallel.PipelineModel(
        lambda: build_model(shape),
        micro_batches=micro_batches,
        cuts=stage_cuts(shape, mesh.pipeline),
    )


def check_published_numbers_of_parameters() -> None:
    published = {
        "gpt2": 124e6,
        "gpt2-medium": 355e6,
        "gpt2-large": 774e6,
        "gpt2-xl": 1558e6,
        "gpt3-6.7b": 6.7e9,
        "gpt3-13b": 13e9,
        "opt-30b": 30e9,
        "opt-66b": 66e9,
        "gpt3-175b": 175e9,
    }
    for name, parameters in published.items():
        shape = PRESETS[name]
        tied = parallel.TransformerShape(
            shape.layers, shape.width, shape.heads, shape.context, 50257, tied=True
        )
        close(tied.parameters, parameters, 0.012)
    close(PRESETS["tiny"].parameters, 1e6, 0.1)


def check_the_formulas_of_the_paper() -> None:
    """Arxiv 2205.05198, table 2: what a layer keeps, in bytes."""
    s, b, h, a = 1024, 3, 1600, 25
    shape = parallel.TransformerShape(48, h, a, s, 50304)
    close(MEGATRON.layer(shape, b, 1, False), s * b * h * (34 + 5 * a * s / h), 1e-9)
    for t in (5, 25):
        tensor = s * b * h * (10 + 24 / t + 5 * a * s / (h * t))
        close(MEGATRON.layer(shape, b, t, False), tensor, 1e-9)
        sequence = s * b * h / t * (34 + 5 * a * s / h)
        close(MEGATRON.layer(shape, b, t, True), sequence, 1e-9)


@long
def check_ranks_hold_the_planned_bytes() -> None:
    for mesh in meshes():
        training = parallel.Training(batch_size=ROWS * mesh.data)
        plan = parallel.plan_memory(SHAPE, degrees_of(mesh), training)[mesh.pipeline_index]
        model = model_on(mesh, SHAPE, training.micro_batches_on(degrees_of(mesh)))
        optimizer = hvd.DistributedOptimizer(keras.optimizers.AdamW())
        optimizer.build(model.trainable_variables)
        close(sum(tf.size(v).numpy() for v in model.weights), plan.parameters)
        close(sum(v.value.dtype.size * tf.size(v).numpy() for v in model.weights), plan.weights)
        slots = sum(v.value.dtype.size * tf.size(v).numpy() for v in optimizer.variables)
        close(slots, plan.optimizer)


@long
def check_a_rank_holds_its_share_of_the_blocks() -> None:
    shape = _of_layers(8)
    whole = shape.parameters - _of_layers(0).parameters
    for mesh in meshes():
        model = model_on(mesh, shape, micro_batches=2)
        held = sum(tf.size(v).numpy() for v in model.weights if "block_" in v.path)
        close(held / whole, 1 / (mesh.tensor * mesh.pipeline), 0.05)


@long
def check_the_graph_keeps_the_planned_activations() -> None:
    """What a function gives its backward function, and what is left of it where both are one graph.

    A second layer's part of it.
    """
    for mesh in meshes():
        for precision in ("float32", "mixed_bfloat16"):
            training = parallel.Training(ROWS, precision=precision)
            keras.config.set_dtype_policy(precision)
            try:
                for on_parts in {False, mesh.tensor > 1}:
                    one, two = (build_model(_of_layers(n), on_parts) for n in (1, 2))
                    for count, kept in (
                        (_kept, training.kept_by_layers),
                        (_kept_in_a_step, training.kept_on(parallel.Degrees())),
                    ):
                        planned = kept.layer(SHAPE, ROWS, mesh.tensor, on_parts)
                        close(count(two) - count(one), planned, 0.03)
            finally:
                keras.config.set_dtype_policy("float32")


def _of_layers(layers: int) -> parallel.TransformerShape:
    return replace(SHAPE, layers=layers)


def _kept(model: keras.Model) -> int:
    """Bytes of the activations that the forward function keeps; nothing is computed."""
    function = tf.function(lambda ids: model(ids, training=True), autograph=False)
    traced = function.get_concrete_function(tf.TensorSpec((ROWS, SHAPE.context), tf.int32))
    forward, _ = traced._delayed_rewrite_functions.forward_backward()
    return _bytes(forward.graph.outputs)


def _kept_in_a_step(model: keras.Model) -> int:
    """The same of one graph: what its forward pass makes and its backward pass reads."""

    def gradients(ids: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.cast(model(ids, training=True), tf.float32))
        weights = [variable.value for variable in model.trainable_variables]
        return [tf.convert_to_tensor(each) for each in tape.gradient(total, weights)]

    function = tf.function(gradients, autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((ROWS, SHAPE.context), tf.int32)).graph
    needed, left = set(), [tensor.op for tensor in graph.outputs]
    while left:
        operation = left.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            left += [tensor.op for tensor in operation.inputs] + operation.control_inputs
    backward: set[str] = set()
    for operation in graph.get_operations():  # in the order in which they were made
        of_tape = operation.name.startswith("gradient_tape/")
        if of_tape or any(tensor.op.name in backward for tensor in operation.inputs):
            backward.add(operation.name)
    return _bytes(
        tensor
        for operation in graph.get_operations()
        if operation.name in needed & backward
        for tensor in operation.inputs
        if tensor.op.name not in backward
    )


def _bytes(tensors: Iterable[tf.Tensor]) -> int:
    """Of those that have rows, each counted once; weights, and their casts, have none."""
    kept = {}
    for tensor in tensors:
        while tensor.op.type in ("Reshape", "Identity", "IdentityN", "ExpandDims", "Squeeze"):
            tensor = tensor.op.inputs[tensor.value_index]
        kept[tensor.name] = tensor
    return sum(
        tensor.shape.num_elements() * tensor.dtype.size
        for tensor in kept.values()
        if tensor.shape.rank and tensor.shape[0] in (ROWS, ROWS * SHAPE.context)
    )


def check_plans_of_pipelines() -> None:
    """The first of p stages keeps p micro-batches of its layers, the last one and the logits."""
    shape = PRESETS["gpt2"]
    plan = parallel.plan_memory(shape, parallel.Degrees(pipeline=4), parallel.Training(32, 16))
    kept = parallel.Training(32).kept_by_layers
    layers = 3 * kept.layer(shape, 2, 1, False)
    assert [rank.stage for rank in plan] == [0, 1, 2, 3]
    close(plan[0].activations, 4 * layers, 1e-6)
    close(plan[3].activations, layers + kept.head(shape, 2, 1, False), 1e-6)
    assert sum(rank.parameters for rank in plan) == shape.parameters
    training = parallel.Training(32, 16, recompute=True)
    again = parallel.plan_memory(shape, parallel.Degrees(pipeline=4), training)
    borders = 4 * 2 * 2 * shape.context * shape.width * 4
    close(again[0].activations, layers + borders, 1e-6)


def check_the_smallest_mesh() -> None:
    shape, training = PRESETS["gpt3-6.7b"], parallel.Training(8, 8, "mixed_bfloat16")

    def needed(degrees: parallel.Degrees) -> int:
        return max(rank.total for rank in parallel.plan_memory(shape, degrees, training))

    limit = needed(parallel.Degrees(tensor=4))
    smallest = parallel.smallest_mesh(shape, training, limit)
    assert smallest is not None
    assert smallest.ranks <= 4
    fewer = [
        parallel.Degrees(d, p, t)
        for d, p, t in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))
        if d * p * t < smallest.ranks
    ]
    assert all(needed(degrees) > limit for degrees in fewer)
    # Where two ranks would do as a pipeline or as a tensor group: the tensor group.
    both = max(needed(parallel.Degrees(tensor=2)), needed(parallel.Degrees(pipeline=2)))
    assert needed(parallel.Degrees(data=2)) > both
    assert parallel.smallest_mesh(shape, training, both) == parallel.Degrees(tensor=2)
    assert parallel.smallest_mesh(shape, training, 2**20) is None
    everything = parallel.smallest_mesh(shape, training, 2**50)
    assert everything == parallel.Degrees()


def check_what_does_not_divide_is_named() -> None:
    xl = PRESETS["gpt2-xl"]
    tied = parallel.TransformerShape(2, 64, 4, 32, 256, tied=True)
    for shape, degrees, words in (
        (xl, parallel.Degrees(tensor=2), "heads is 25"),
        (xl, parallel.Degrees(pipeline=5), "layers is 48"),
        (xl, parallel.Degrees(data=3), "batch size is 8"),
        (tied, parallel.Degrees(pipeline=2), "weights of the embedding"),
    ):
        problem = parallel.misfit(shape, degrees, parallel.Training(8))
        assert problem is not None
        assert words in problem, problem
        assert not problem.endswith(" "), problem
    problem = parallel.misfit(PRESETS["gpt2"], parallel.Degrees(2), parallel.Training(8, 3))
    assert problem is not None
    assert "batch of a replica is 4, which does not divide by 3, the micro-batches" in problem
    # Where nothing is said, the number of micro-batches divides.
    for rows, count in ((6, 3), (7, 1), (16, 4)):
        assert parallel.Training(rows).micro_batches_on(parallel.Degrees(pipeline=2)) == count


def check_what_a_rank_may_use() -> None:
    whole = psutil.virtual_memory().total
    assert 0 < parallel.rank_memory_limit(2) <= whole / 2


def check_limits_of_control_groups() -> None:
    """A batch job's group in a container's, in both versions of the files."""
    for version, line, folder, names, cached in (
        (2, "0::/box/job", "box/job", ("memory.max", "memory.current"), "inactive_file"),
        (
            1,
            "4:cpu,memory:/box/job",
            "memory/box/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ):
        with tempfile.TemporaryDirectory() as place:
            root = Path(place)
            job = root / folder
            job.mkdir(parents=True)
            for group, limit, used in ((job, 1000, 400), (job.parent, 5000, 4800)):
                (group / names[0]).write_text(f"{limit}\n")
                (group / names[1]).write_text(f"{used}\n")
                (group / "memory.stat").write_text(f"{cached} 100\nanon 7\n")
            (root / "membership").write_text(f"1:name=other:/\n{line}\n")
            left = _left_in_cgroups(root / "membership", root)
            assert sorted(left) == [300, 700], (version, left)
