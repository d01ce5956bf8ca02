"""In trainings: fit in graphs and eagerly, several optimizers, replicas of a mesh."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.composites import COMPOSITES
from checks.compression.methods import METHODS
from checks.hierarchical.levels import all_groups, forgetting_process_sets, some_groups
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Hierarchical, PowerSGD
from hvdkit.mesh.layout import Layout, set_layout
from hvdkit.optimizers.composition import tracked_of


@long
def check_fit_equals_one_process() -> None:
    with forgetting_process_sets():
        for groups in all_groups()[1:2]:
            compare_with_one_process(
                mlp,
                lambda: optimizers.Adam(0.02),
                lambda g=groups: hvd.DistributedOptimizer(
                    optimizers.Adam(0.02), exchange=AllReduce(Hierarchical(groups=g))
                ),
            )


def _require_trained(inner: Any, options: dict[str, Any]) -> None:
    x, y = data(16, seed=hvd.rank())
    model = mlp(hvd.rank())
    exchange = AllReduce(Hierarchical(inner, groups=some_groups()))
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(0.02, global_clipnorm=1.0), exchange=exchange
    )
    model.compile(optimizer, "mse", **options)
    callbacks = [hvd.callbacks.BroadcastGlobalVariablesCallback(1)]  # no leader in some groups
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=callbacks).history
    assert history["loss"][-1] < history["loss"][0]
    same_on_all_ranks(model)
    for row in tracked_of(optimizer):
        if row.same_on is not None:
            everyone = hvd.allgather_object(np.array(row.variable))
            np.testing.assert_array_equal(everyone[0], everyone[-1], err_msg=row.path)


def check_in_fit() -> None:
    with forgetting_process_sets():
        _require_trained(PowerSGD(rank=1, min_compression=0.5), {"steps_per_execution": 2})


@long
def check_each_method_in_fit() -> None:
    options = cycle([{"run_eagerly": True}, {}, {"steps_per_execution": 4}])
    with forgetting_process_sets():
        for make in METHODS.values():
            _require_trained(make(), next(options))


@long
def check_under_accumulation_loss_scaling_and_several_optimizers() -> None:
    with forgetting_process_sets():
        for make in COMPOSITES:
            compare_with_one_process(
                mlp,
                make,
                lambda m=make: hvd.DistributedOptimizer(
                    m(), exchange=AllReduce(Hierarchical(groups=some_groups()))
                ),
            )


@long
def check_two_optimizers_find_the_same_process_sets() -> None:
    from hvdkit.engine.native import registered_process_sets

    with forgetting_process_sets():
        weights = [keras.Variable([0.0]), keras.Variable([0.0])]
        made = []
        for weight in weights:
            exchange = AllReduce(Hierarchical(groups=some_groups()))
            one = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
            one.build([weight])
            made.append(one)

        @tf.function
        def steps() -> None:
            for one in made:
                one.apply([tf.constant([float(hvd.rank())])])

        before = len(registered_process_sets())
        steps()
        several = [group for group in some_groups() if len(group) > 1]
        assert len(registered_process_sets()) == before + len(several) + 1
        for weight in weights:
            np.testing.assert_allclose(weight.numpy(), [-(hvd.size() - 1) / 2])


@long
def check_process_sets_that_were_removed_are_made_again() -> None:
    weight = keras.Variable([0.0])
    exchange = AllReduce(Hierarchical(groups=some_groups()))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.build([weight])
    for step in (1, 2):
        with forgetting_process_sets():
            optimizer.apply([tf.constant([float(hvd.rank())])])
        np.testing.assert_allclose(weight.numpy(), [-step * (hvd.size() - 1) / 2])


@long
def check_replicas_of_a_mesh() -> None:
    """Replicas of other shards have groups of their own."""
    if hvd.size() % 2:
        return
    half = hvd.size() // 2
    layouts = [
        [list(range(half)), list(range(half, hvd.size()))],  # of 4 ranks: no replicas share one
        [list(range(0, hvd.size(), 2)), list(range(1, hvd.size(), 2))],  # all of them do
        [[0], list(range(1, hvd.size()))],
    ]
    with forgetting_process_sets():
        mesh = hvd.Mesh(tensor=2)
        hvd.set_mesh(mesh)
        for groups in layouts:
            shard = keras.Variable([0.0, 0.0], name="shard")
            set_layout(shard, Layout(mesh, {"tensor": 0}))
            exchange = AllReduce(Hierarchical(groups=groups))
            optimizer = hvd.DistributedOptimizer(optimizers.SGD(-1.0), exchange=exchange)
            optimizer.build([shard])
            step = tf.function(lambda g, o=optimizer: o.apply([g]))
            step(tf.constant([float(hvd.rank()), 1.0]))
            mean = np.mean(np.arange(mesh.tensor_index, hvd.size(), 2))
            np.testing.assert_allclose(shard.numpy(), [mean, 1.0], err_msg=str(groups))
        hvd.set_mesh(None)
