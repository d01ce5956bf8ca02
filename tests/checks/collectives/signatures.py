"""Names and arguments are those of Horovod."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.collectives.reference import all_ranks, assert_equal

import hvdkit as hvd


def check_names_and_name_scopes() -> None:
    value = tf.constant([hvd.rank() + 1.0])
    total = sum(r + 1 for r in all_ranks())

    @tf.function
    def scoped() -> tuple[tf.Tensor, ...]:
        # The scope differs by rank, so the name must leave it out to meet the other ranks'.
        with tf.name_scope(f"of_rank_{hvd.rank()}"):
            return (
                hvd.allreduce(value, op=hvd.Sum, name="a", ignore_name_scope=True),
                hvd.broadcast(value, 0, name="b", ignore_name_scope=True),
                hvd.allgather(value, name="c", ignore_name_scope=True),
                hvd.alltoall(tf.fill([hvd.size()], value[0]), None, "d", True),
                hvd.reducescatter(
                    tf.fill([hvd.size()], value[0]), "e", hvd.Sum, ignore_name_scope=True
                ),
                hvd.allreduce(tf.cast(value, tf.bfloat16), "f", op=hvd.Sum, ignore_name_scope=True),
                hvd.allgather(tf.cast(value, tf.bfloat16), "g", ignore_name_scope=True),
            )

    everyone = [r + 1 for r in all_ranks()]
    for result, expected in zip(
        scoped(), ([total], [1], everyone, everyone, [total], [total], everyone), strict=True
    ):
        assert_equal(result, expected)


def check_first_argument_by_either_name() -> None:
    own = float(hvd.rank())
    for keyword in ("value", "tensor"):
        assert hvd.allreduce(**{keyword: own}, op=hvd.Max) == hvd.size() - 1
        assert hvd.allgather(**{keyword: own}).tolist() == list(all_ranks())
        assert hvd.broadcast(**{keyword: own}, root_rank=hvd.size() - 1) == hvd.size() - 1
        rows = np.full(hvd.size(), own)
        assert hvd.reducescatter(**{keyword: rows}, op=hvd.Sum).tolist() == [sum(all_ranks())]
    with pytest.raises(TypeError, match="tensor"):
        hvd.allreduce(1.0, tensor=2.0)
    with pytest.raises(TypeError, match="value"):
        hvd.allreduce(value=1.0, tensor=2.0)


def check_positional_arguments_in_either_order() -> None:
    """Horovod's two modules have orders of their own; arguments in either are taken."""
    import horovod.tensorflow
    import horovod.tensorflow.keras

    given = {
        "name": "positional",
        "average": False,
        "device_dense": "",
        "device_sparse": "",
        "compression": hvd.Compression.none,
        "op": hvd.Sum,
        "prescale_factor": 1.0,
        "postscale_factor": 1.0,
        "process_set": hvd.global_process_set,
        "ignore_name_scope": True,
        "root_rank": 0,
        "splits": None,
    }
    rows = tf.fill([hvd.size()], tf.constant(hvd.rank() + 1.0))
    total = float(sum(r + 1 for r in all_ranks()))
    expected = {
        "allreduce": ([total] * hvd.size(), [total / hvd.size()] * hvd.size()),
        "reducescatter": ([total], [total / hvd.size()]),
        "allgather": (np.repeat([r + 1.0 for r in all_ranks()], hvd.size()),) * 2,
        "broadcast": ([1.0] * hvd.size(),) * 2,
        "alltoall": ([r + 1.0 for r in all_ranks()],) * 2,
    }
    compared = 0
    for module in (horovod.tensorflow, horovod.tensorflow.keras):
        for name, (sums, averages) in expected.items():
            for prefix, function in (("", getattr(hvd, name)), ("grouped_", None)):
                theirs = getattr(module, prefix + name, None)
                if theirs is None:
                    continue
                function = function or (
                    lambda v, *more, name=name: getattr(hvd, f"grouped_{name}")([v], *more)[0]
                )
                names = list(inspect.signature(theirs).parameters)[1:]
                least = 1 + names.index("root_rank") if "root_rank" in names else 0
                for length in range(least, len(names) + 1):
                    values = {n: given[n] for n in names[:length]}
                    if "op" in values and "average" in values:
                        values["average"] = None
                    summed = values.get("op") == hvd.Sum or values.get("average") is False
                    result = function(rows, *values.values())
                    result = result[0] if isinstance(result, tuple) else result
                    assert_equal(result, sums if summed else averages, rtol=1e-6)
                    compared += 1
    assert compared >= 40, compared
    x = tf.constant(hvd.rank() + 1.0)
    assert_equal(hvd.allreduce(x, False), total)
    assert_equal(hvd.allreduce(x, True), total / hvd.size(), rtol=1e-6)
    for arguments in (("name", False), ("name", False, "", "", hvd.Compression.fp16, True, 1)):
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(), *arguments)
        assert optimizer.process_set is hvd.global_process_set
    with pytest.raises(TypeError, match="average twice"):
        hvd.allreduce(x, True, average=False)


def check_signatures_are_those_of_horovod() -> None:
    """Positional names, order and defaults; more arguments are keywords, or TensorFlow's order."""
    import horovod.tensorflow
    import horovod.tensorflow.keras

    compared = 0
    for name in hvd.__all__:
        theirs = getattr(horovod.tensorflow.keras, name, None)
        theirs = theirs or getattr(horovod.tensorflow, name, None)
        ours = getattr(hvd, name)
        if theirs is None or not inspect.isfunction(ours) or ours is theirs or name == "init":
            continue
        compared += 1
        expected = list(inspect.signature(theirs).parameters.values())
        parameters = list(inspect.signature(ours).parameters.values())
        assert _described(parameters[: len(expected)]) == _described(expected), name
        others = getattr(horovod.tensorflow, name, theirs)
        follows = [p.name for p in parameters][: len(inspect.signature(others).parameters)]
        assert (
            all(
                p.kind is p.KEYWORD_ONLY or p.kind is p.VAR_KEYWORD
                for p in parameters[len(expected) :]
            )
            or follows[1:] == list(inspect.signature(others).parameters)[1:]
        ), name
        # What only horovod.tensorflow's function has is a keyword of ours.
        other = getattr(horovod.tensorflow, name, theirs)
        more = set(inspect.signature(other).parameters) - {"tensor", "use_locking"}
        assert more <= {p.name for p in parameters}, (name, more)
    assert compared >= 40, compared
    first = list(inspect.signature(hvd.init).parameters)
    assert first[:2] == ["comm", "process_sets"]


def _described(parameters: list[inspect.Parameter]) -> list[tuple[str, Any]]:
    """Names and defaults; a default that is a class or an object counts by its class's name."""

    def default(value: Any) -> Any:
        if isinstance(value, type):
            return value.__name__
        return value if isinstance(value, (int, float, str, bool)) else type(value).__name__

    return [(p.name, default(p.default)) for p in parameters]


def check_everything_horovod_offers_is_here() -> None:
    import horovod.tensorflow.keras

    theirs = vars(horovod.tensorflow.keras)
    internal = {"K", "keras", "tf", "inspect", "warnings", "version"}
    names = {name for name in theirs if not name.startswith("_")} - internal
    names -= {"is_version_greater_equal_than"}
    assert len(names) > 30
    missing = sorted(name for name in names if not hasattr(hvd, name))
    assert not missing, missing
    assert names <= {*hvd.__all__}, sorted(names - {*hvd.__all__})


def check_modules_of_horovod_are_here() -> None:
    import importlib

    for name, members in {
        "mpi_ops": ("rank", "size", "allreduce", "Average", "ProcessSet", "rank_op"),
        "functions": ("broadcast_variables", "broadcast_object", "allgather_object"),
        "compression": ("Compression", "Compressor", "FP16Compressor"),
        "sync_batch_norm": ("SyncBatchNormalization",),
        "util": ("vars_to_refs", "refs_to_vars"),
        "gradient_aggregation": ("LocalGradientAggregationHelper",),
    }.items():
        module = importlib.import_module(f"hvdkit.{name}")
        assert module is getattr(hvd, name)
        assert not [member for member in members if not hasattr(module, member)]
    variable = tf.Variable(1.0)
    assert hvd.util.refs_to_vars(hvd.util.vars_to_refs([variable])) == [variable]


def check_only_public_names_are_shown() -> None:
    assert set(dir(hvd)) == {*hvd.__all__, "__version__"}


def check_broadcast_of_variables_in_place() -> None:
    variables = [tf.Variable([float(hvd.rank())]), keras.Variable(hvd.rank() + 1.0)]
    values = hvd.broadcast_(variables, 0, "name")
    assert [float(tf.reshape(v, [])) for v in values] == [0.0, 1.0]
    assert float(variables[1]) == 1.0
    assert int(hvd.process_set_included_op()) == 1
