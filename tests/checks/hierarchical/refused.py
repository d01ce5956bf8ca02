"""What can't be right is refused on every rank, by name; and configs make the same again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf
from checks.compression.methods import METHODS
from checks.hierarchical.levels import some_groups
from checks.marks import long
from keras import optimizers

import hvdkit as hvd
from hvdkit.engine import Sum
from hvdkit.exchange import (
    AllReduce,
    ErrorFeedback,
    Hierarchical,
    OneBit,
    PowerSGD,
    Role,
    Summed,
    TopK,
    Tracked,
)


def _require_refused(make: Callable[[], Any], kind: type[Exception], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    for part in parts:
        assert part in str(caught.value), (part, str(caught.value))


def _stepped(aggregator: Any, **options: Any) -> None:
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(0.1), exchange=AllReduce(aggregator, **options)
    )
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    optimizer.apply([tf.constant([1.0])])


def check_groups_that_are_none() -> None:
    ranks = list(range(hvd.size()))
    for groups, part in (
        ([ranks, [0]], "ranks [0] are in it more than once"),
        ([ranks[1:]], "ranks [0] are in no group"),
        ([ranks, [hvd.size()]], f"ranks [{hvd.size()}] are none of the {hvd.size()} ranks"),
        ([ranks, []], "no ranks"),
        ([ranks if hvd.rank() else ranks[:1], ranks[1:]], "every rank has to give the same"),
    ):
        _require_refused(lambda g=groups: _stepped(Hierarchical(groups=g)), ValueError, part)
    hvd.barrier()
    # Whether hosts were given is compared before, with the other settings.
    with pytest.raises(hvd.HvdkitError, match="groups"):
        _stepped(Hierarchical(groups=[ranks] if hvd.rank() else None))
    for wrong in ([0, 1], "host", 2):
        _require_refused(lambda w=wrong: Hierarchical(groups=w), TypeError, "[[0, 1], [2, 3]]")


def check_arguments() -> None:
    for make, parts in (
        (lambda: Hierarchical(Hierarchical()), ["none inside of another"]),
        (lambda: Hierarchical(Summed(op=Sum)), ["Summed", "op"]),
        (lambda: ErrorFeedback(Hierarchical(PowerSGD())), ["Hierarchical", "of its own"]),
        (lambda: AllReduce(Hierarchical(), op=hvd.Adasum), ["Hierarchical makes the mean", "op"]),
        (lambda: AllReduce(Hierarchical(), op=hvd.Sum), ["Hierarchical makes the mean", "op"]),
        (
            lambda: AllReduce(Hierarchical(), compression=hvd.Compression.fp16),
            ["Hierarchical makes the mean", "compression"],
        ),
        (lambda: _stepped(Hierarchical(ErrorFeedback(Hierarchical()))), ["inside of another"]),
        (lambda: _fitted(optimizers.Adam(), TopK(momentum=0.9)), ["TopK", "Adam"]),
    ):
        _require_refused(make, ValueError, *parts)
    _require_refused(lambda: Hierarchical("fp16"), TypeError, "fp16")
    _require_refused(lambda: AllReduce(compression=Hierarchical()), TypeError, "Hierarchical")


def _fitted(optimizer: Any, between: Any) -> Any:
    return hvd.DistributedOptimizer(optimizer, exchange=AllReduce(Hierarchical(between)))


def check_elastic_jobs() -> None:
    from hvdkit.exchange.hierarchical import aggregator

    before = aggregator.is_elastic
    aggregator.is_elastic = lambda: True
    try:
        _require_refused(lambda: _stepped(Hierarchical()), NotImplementedError, "come and go")
    finally:
        aggregator.is_elastic = before


def check_an_aggregator_whose_state_is_each_ranks_own() -> None:
    class Own(Summed):
        def build(self, variables: Any, ranks: Any) -> list[Tracked]:
            super().build(variables, ranks)
            return [Tracked(keras.Variable(0.0), Role.SLOT, "own/count")]

    _require_refused(lambda: _stepped(Hierarchical(Own())), NotImplementedError, "own/count")


@long
def check_some_of_the_ranks() -> None:
    """Also where the others have another exchange, and would never come."""
    some = hvd.add_process_set([0, hvd.size() - 1])
    if hvd.rank() in (0, hvd.size() - 1):
        _require_refused(
            lambda: _stepped(Hierarchical(), process_set=some),
            NotImplementedError,
            "all ranks of the job",
            str([0, hvd.size() - 1]),
        )
    hvd.remove_process_set(some)
    if hvd.size() % 2:
        return
    hvd.set_mesh(hvd.Mesh(data=2, pipeline=hvd.size() // 2))
    _require_refused(lambda: _stepped(Hierarchical()), NotImplementedError, "pipeline")
    hvd.set_mesh(None)


def check_configs_make_the_same() -> None:
    inside = [None, hvd.Compression.fp16, OneBit(), *(make() for make in METHODS.values())]
    for inner in inside:
        exchange = AllReduce(Hierarchical(inner, groups=some_groups()))
        stored = keras.saving.serialize_keras_object(exchange)
        again = keras.saving.deserialize_keras_object(stored)
        assert again.get_config() == exchange.get_config()
    assert Hierarchical.from_config(Hierarchical().get_config()).get_config() == {
        "inner": None,
        "groups": None,
    }
