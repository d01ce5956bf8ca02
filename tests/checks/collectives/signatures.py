"""Names and arguments are those of Horovod."""

from __future__ import annotations

import inspect
from typing import Any

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


def check_signatures_are_those_of_horovod() -> None:
    """Positional names, order and defaults; hvdkit may add arguments after them."""
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
        assert all(
            p.kind is p.KEYWORD_ONLY or p.kind is p.VAR_KEYWORD for p in parameters[len(expected) :]
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
