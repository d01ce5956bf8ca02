"""How many bytes a rank holds, against the plan; and what a step sends."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.memory_plan import SHAPE
from checks.sharded_optimizer.twins import variables
from gpt_model import build_model
from keras import optimizers

import hvdkit as hvd
from hvdkit import parallel
from hvdkit.exchange import Sharded
from hvdkit.exchange.owners import Owners
from hvdkit.exchange.sharded.placement import even_ranges, overlaps
from hvdkit.optimizers.composition import tracked_of


def _bytes(given: list[Any]) -> int:
    return sum(v.value.dtype.size * int(tf.size(v)) for v in given if v is not None)


@long
def check_bytes_are_those_of_the_plan() -> None:
    for ranks_divide in (True, False):
        shape = SHAPE if ranks_divide else parallel.TransformerShape(1, 60, 4, 31, 257)
        model = build_model(shape)
        for stage, steps in ((1, None), (2, 2)):
            exchange = Sharded(stage)
            optimizer = hvd.DistributedOptimizer(
                optimizers.AdamW(gradient_accumulation_steps=steps), exchange=exchange
            )
            optimizer.build(model.trainable_variables)
            training = parallel.Training(hvd.size(), sharded_optimizer=True)
            (plan,) = parallel.plan_memory(shape, parallel.Degrees(hvd.size()), training)
            found = _bytes([*optimizer._momentums, *optimizer._velocities])
            assert abs(found - plan.optimizer) <= 0.01 * plan.optimizer, (found, plan.optimizer)
            owned = exchange.owned(model.trainable_variables)
            pairs = zip(owned, model.trainable_variables, strict=True)
            shards = _bytes([own for own, variable in pairs if own is not variable])
            assert shards <= plan.weights - plan.parameters * 4
            if steps:
                accumulated = _bytes(optimizer._accumulated_gradients)
                share = plan.parameters * 4 / hvd.size()
                assert abs(accumulated - share) <= 0.01 * share


@long
def check_whole_variables_are_balanced() -> None:
    shapes = [(rows, 3) for rows in range(1, 25)]
    given = variables(shapes)
    optimizer = hvd.DistributedOptimizer(optimizers.Lamb(0.1), exchange=Sharded())
    optimizer.build(given)
    held = hvd.allgather_object(_bytes(optimizer._momentums))
    assert sum(held) == _bytes(given)
    assert max(held) - min(held) <= 24 * 3 * 4


@long
def check_each_element_has_one_owner() -> None:
    """Each rank fills what it owns with numbers of its own; gathered, nothing is missing."""
    for make in (lambda: optimizers.SGD(0.0, momentum=0.9), lambda: optimizers.Lamb(0.0)):
        exchange, given = Sharded(), variables()
        optimizer = hvd.DistributedOptimizer(make(), exchange=exchange)
        optimizer.build(given)
        rows = exchange.shards(given)
        counts = [np.zeros(int(np.prod(v.shape)), int) for v in given]
        for shards in hvd.allgather_object(rows):
            for count, shard in zip(counts, shards, strict=True):
                count[shard.start : shard.stop] += 1
        assert all((count == 1).all() for count in counts)
        for own in exchange.owned(given):
            own.assign(np.full(own.shape, hvd.rank() + 1.0))
        exchange.weights(given, tf.constant(0))
        everyone = hvd.allgather_object(([v.numpy() for v in given], rows))
        for values, shards in everyone:
            for i, (value, shard) in enumerate(zip(values, shards, strict=True)):
                np.testing.assert_array_equal(value, everyone[0][0][i])
                rank = next(r for r, (_, s) in enumerate(everyone) if s is shards)
                assert (value.reshape(-1)[shard.start : shard.stop] == rank + 1.0).all()


@long
def check_names_of_slots_are_those_of_the_plain_optimizer() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    plain = optimizers.Adam(name="one")
    plain.build(model.trainable_variables)
    sharded = hvd.DistributedOptimizer(optimizers.Adam(name="one"), exchange=Sharded())
    sharded.build(model.trainable_variables)
    assert [v.path for v in sharded.variables] == [v.path for v in plain.variables]
    own = [row for row in tracked_of(sharded) if row.shard is not None]
    assert len(own) == 2 * len(model.trainable_variables)


@long
def check_ranges() -> None:
    for ranks in (1, 2, 3, 7):
        for sizes in ([1], [5, 1, 0, 12], [1, 1], [100, 3, 3]):
            ranges = even_ranges(sum(sizes), ranks)
            lengths = [stop - start for start, stop in ranges]
            assert sorted(lengths, reverse=True) == lengths
            assert max(lengths) - min(lengths) <= 1
            counts = [np.zeros(size, int) for size in sizes]
            for of_rank in ranges:
                for count, (start, stop) in zip(counts, overlaps(sizes, of_rank), strict=True):
                    count[start:stop] += 1
            assert all((count == 1).all() for count in counts)


def check_owners_by_bytes() -> None:
    owners, sizes = Owners(2), [5, 4, 3, 3]
    first = owners.give(sizes)
    loads = [sum(s for s, o in zip(sizes, first, strict=True) if o == rank) for rank in (0, 1)]
    assert sorted(loads) == [7, 8]
    (later,) = owners.give([6])
    assert later == loads.index(7)
