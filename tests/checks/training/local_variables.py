"""Variables whose gradients stay on their rank, with tapes and optimizers."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long
from checks.reference import data, mlp
from keras import optimizers

import hvdkit as hvd


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


@long
def check_partial_tape_and_optimizer() -> None:
    rank, size = float(hvd.rank()), hvd.size()
    for scale in (True, False):
        model = mlp(3)
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_sum(model(tf.ones([1, 6]) * (rank + 1)))
        own = tape.gradient(loss, model.trainable_variables)
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
            optimizers.SGD(1.0), local_layers=[model.layers[-1]], scale_local_gradients=scale
        )
        before = [v.numpy() for v in model.trainable_variables]
        optimizer.apply(own, model.trainable_variables)
        for i, variable in enumerate(model.trainable_variables):
            np.testing.assert_allclose(
                before[i] - variable.numpy(), gradients[i].numpy(), rtol=1e-4, atol=1e-5
            )


@long
def check_local_variables_keep_their_gradients_in_fit() -> None:
    model = mlp(0)
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1))
    for variable in model.layers[-1].trainable_variables:
        optimizer.register_local_var(variable)
    model.compile(optimizer=optimizer, loss="mse")
    x, y = data(16, seed=hvd.rank())
    model.fit(x, y, batch_size=4, verbose=0)
    weights = hvd.allgather_object(model.get_weights())
    if hvd.size() > 1:
        assert not np.array_equal(weights[0][2], weights[1][2])


@long
def check_local_variables_of_other_shapes_on_each_rank() -> None:
    """A table that each rank has of another size, as in a model-parallel embedding."""
    rank, size = hvd.rank(), hvd.size()
    ids = tf.constant([[0, 1], [2, 3]])
    x, y = ids.numpy(), np.array([[1.0], [0.0]])

    def build() -> tuple[keras.Model, keras.Layer]:
        table = keras.layers.Embedding(7 + rank, 3)
        layers = [table, keras.layers.Flatten(), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((2,), dtype="int32"), *layers]), table

    model, table = build()
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_mean((model(ids) - y) ** 2)
    own = tape.gradient(loss, model.trainable_variables)
    tape = hvd.DistributedGradientTape(tape)
    tape.register_local_source(table.weights[0])
    gradients = tape.gradient(loss, model.trainable_variables)
    mean = np.mean(hvd.allgather_object(own[1].numpy()), axis=0)
    np.testing.assert_allclose(gradients[1], mean, rtol=1e-5)
    dense = [tf.convert_to_tensor(g[0]).numpy() for g in (gradients, own)]
    np.testing.assert_allclose(dense[0], dense[1] / size, rtol=1e-5)
    for partial in (False, True):
        model, table = build()
        if partial:
            optimizer = hvd.PartialDistributedOptimizer(optimizers.SGD(0.1), local_layers=[table])
        else:
            optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1))
            optimizer.register_local_var(table.weights[0])
        model.compile(optimizer, "mse")
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0, local_variables=table.weights)
        model.fit(x, y, epochs=2, verbose=0, callbacks=[start])
        everyone = hvd.allgather_object(model.get_weights())
        for other in everyone:
            np.testing.assert_array_equal(other[1], everyone[0][1])
