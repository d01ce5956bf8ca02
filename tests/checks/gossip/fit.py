"""Gossip in `fit`, with other optimizers beside it, stopped and resumed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Gossip
from hvdkit.mesh.layout import Layout, set_layout
from hvdkit.schedules.gossip import Exponential, mixing_matrix


@long
def check_ranks_meet_at_the_end_and_tell_how_far_they_were_apart() -> None:
    x, y = data(16, seed=hvd.rank())
    model = mlp(5)
    model.compile(hvd.DistributedOptimizer(optimizers.Adam(0.02), exchange=Gossip("ring")), "mse")
    check = hvd.callbacks.ConsistencyCheck(every_n_epochs=1)
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[check]).history
    same_on_all_ranks(model)
    assert history["loss"][1] < history["loss"][0]
    apart = history["consensus_distance"]
    assert len(apart) == 2
    if hvd.size() > 3:  # a ring of three is everyone
        assert min(apart) > 1e-4
    assert hvd.allgather_object(apart) == [apart] * hvd.size()


def check_the_distance_is_what_it_says() -> None:
    weight = keras.Variable([0.0, 0.0])
    exchange = Gossip("ring")
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=exchange)
    optimizer.build([weight])
    optimizer.apply([tf.constant([0.0, 0.0])])
    own = np.array([3.0, 4.0]) * hvd.rank()
    weight.assign(own)
    exchange.meet([weight])
    ranks = np.arange(hvd.size())
    np.testing.assert_allclose(exchange.logs()["consensus_distance"], 5 * ranks.std(), rtol=1e-5)
    np.testing.assert_allclose(weight.numpy(), np.array([3.0, 4.0]) * ranks.mean(), rtol=1e-6)


@long
def check_two_optimizers_gossip_in_one_graph() -> None:
    """And several in one: no rank waits in one for another that waits in the other."""
    kernels, biases = optimizers.SGD(0.1), optimizers.SGD(0.2)
    several = optimizers.MultiOptimizer(lambda v: kernels if len(v.shape) > 1 else biases)
    first, second, third = (
        keras.Variable(np.ones(shape, "float32")) for shape in ((2, 2), (2,), (3,))
    )
    one = hvd.DistributedOptimizer(several, exchange=Gossip("one_peer_exponential"))
    other = hvd.DistributedOptimizer(
        optimizers.SGD(0.1, gradient_accumulation_steps=2),
        exchange=Gossip("ring"),
        nonfinite=hvd.nonfinite.Skip(),
    )
    one.build([first, second])
    other.build([third])

    @tf.function
    def steps() -> None:
        for _ in tf.range(4):
            rank = tf.cast(hvd.rank(), tf.float32)
            other.apply([tf.fill([3], rank)])
            one.apply([tf.fill([2, 2], rank), tf.fill([2], rank)])

    steps()
    moved = 4 * np.mean(range(hvd.size()))
    for variable, rate in ((first, 0.1), (second, 0.2), (third, 0.05)):
        mean = np.mean(hvd.allgather_object(variable.numpy()), axis=0)
        np.testing.assert_allclose(mean, 1 - rate * moved, rtol=1e-5)


def check_a_step_that_is_not_finite_is_left_out_on_all() -> None:
    own = [float(hvd.rank() ** 2)]
    weight = keras.Variable(own)
    optimizer = hvd.DistributedOptimizer(
        optimizers.SGD(1.0), exchange=Gossip("ring"), nonfinite=hvd.nonfinite.Skip()
    )
    optimizer.build([weight])
    apply = tf.function(lambda gradient: optimizer.apply([gradient]))
    apply(tf.constant([np.nan if hvd.rank() == 0 else 0.0], tf.float32))
    np.testing.assert_array_equal(weight.numpy(), own)
    apply(tf.constant([0.0]))
    assert hvd.size() == 1 or weight.numpy() != own


def check_optimizers_that_keep_weights_in_slots_are_refused() -> None:
    kinds = [optimizers.Ftrl, getattr(optimizers, "ScheduleFreeAdamW", optimizers.Ftrl)]
    for kind in kinds:
        optimizer = hvd.DistributedOptimizer(kind(0.1), exchange=Gossip())
        with pytest.raises(ValueError, match=f"{kind.__name__} .* another optimizer with Gossip"):
            optimizer.build([keras.Variable([1.0])])


@long
def check_a_training_that_is_stopped_goes_on_to_the_bit() -> None:
    def model() -> Any:
        exchange = Gossip("one_peer_exponential")
        return build(distributed={"exchange": exchange}, optimizer=optimizers.Adam(0.01))

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=3, model=model(), save_freq=1) is None
    end = train(folder, model=model(), save_freq=1)
    assert never is not None
    assert end is not None
    require_same_end(never, end)


@long
def check_replicas_gossip_and_shards_stay_apart() -> None:
    if hvd.size() % 2:
        return
    mesh = hvd.Mesh(data=hvd.size() // 2, tensor=2)
    hvd.set_mesh(mesh)
    shard = keras.Variable([0.0], name="shard")
    set_layout(shard, Layout(mesh, {"tensor": 0}))
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(1.0), exchange=Gossip("exponential"))
    optimizer.build([shard])
    own = 10.0 * mesh.tensor_index + mesh.data_index
    tf.function(lambda gradient: optimizer.apply([gradient]))(tf.constant([own]))
    matrix = mixing_matrix(Exponential(), mesh.data, 0)
    moved = 10.0 * mesh.tensor_index + np.arange(mesh.data)
    np.testing.assert_allclose(shard.numpy(), -(matrix @ moved)[mesh.data_index], rtol=1e-6)
    hvd.set_mesh(None)
