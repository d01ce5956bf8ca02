"""`exchange=` beside Horovod's arguments, and in files."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.checkpoints.runs import shared_folder
from checks.exchanges.kinds import ErrorFeedback, LocalSteps
from checks.marks import long
from checks.reference import compare_with_one_process, data, mlp
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import AllReduce, Cast
from hvdkit.optimizers.composition import tracked_of


@long
def check_arguments_of_horovod_are_those_of_the_default_exchange() -> None:
    def sgd() -> Any:
        return optimizers.SGD(0.1)

    for exchange, options in (
        (AllReduce(gradient_predivide_factor=2.0, groups=2), {}),
        (AllReduce(compression=Cast("float16")), {"rtol": 5e-3, "atol": 2e-3}),
        (AllReduce(compression=hvd.Compression.bf16), {"rtol": 3e-2, "atol": 1e-2}),
    ):
        compare_with_one_process(
            mlp, sgd, lambda e=exchange: hvd.DistributedOptimizer(sgd(), exchange=e), **options
        )
    # What is not about the exchange goes with any.
    compare_with_one_process(
        mlp,
        lambda: optimizers.SGD(0.2, gradient_accumulation_steps=2),
        lambda: hvd.DistributedOptimizer(
            sgd(), exchange=AllReduce(), backward_passes_per_step=2, sparse_as_dense=True
        ),
        steps=6,
    )


def check_partial_optimizer_and_tape() -> None:
    model = mlp(0)
    rank, size = hvd.rank(), hvd.size()
    gradients = [tf.fill(v.shape, rank + 1.0) for v in model.trainable_variables]
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = hvd.PartialDistributedOptimizer(
        optimizers.SGD(1.0), local_layers=model.layers[-1], exchange=AllReduce(op=hvd.Sum)
    )
    optimizer.apply(gradients, model.trainable_variables)
    steps = [old - v.numpy() for old, v in zip(before, model.trainable_variables, strict=True)]
    expected = [size * (size + 1) / 2] * 2 + [(rank + 1) / size] * 2
    for step, value in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step, value, rtol=1e-4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tf.ones([1, 6]) * (rank + 1)))
    partial = hvd.PartialDistributedGradientTape(
        tape, local_layers=model.layers[-1], exchange=AllReduce(op=hvd.Sum)
    )
    reduced = partial.gradient(loss, model.trainable_variables)
    everyone = hvd.allgather_object([g.numpy() for g in reduced])
    np.testing.assert_array_equal(everyone[0][0], everyone[-1][0])
    np.testing.assert_allclose(everyone[rank][3], 1.0 / size)


def check_configs_make_the_same_exchange() -> None:
    model = mlp(0)
    variables = model.trainable_variables
    for exchange in (
        AllReduce(op=hvd.Sum, compression=hvd.Compression.bf16, groups=3, device_dense="CPU:0"),
        AllReduce(compression=Cast("bfloat16"), gradient_predivide_factor=2.0),
        AllReduce(ErrorFeedback(), groups=[variables[:2], [variables[3].value]]),
    ):
        config = exchange.get_config()
        assert AllReduce.from_config(config).get_config() == config
        stored = keras.saving.serialize_keras_object(exchange)
        again = keras.saving.deserialize_keras_object(stored)
        assert type(again) is AllReduce
        assert again.get_config() == config
    assert config["groups"][0] == [v.path for v in variables[:2]]
    assert config["process_set"] is None


@long
def check_files_and_copies_of_an_optimizer_are_plain() -> None:
    """As with the default exchange: they hold the optimizer, and the exchange is given anew."""
    x, y = data(16, seed=hvd.rank())
    model = mlp(1)
    optimizer = hvd.DistributedOptimizer(optimizers.Adam(0.01), exchange=LocalSteps(2))
    model.compile(optimizer, "mse")
    alone = hvd.callbacks.ConsistencyCheck(at_start=False)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[alone])
    assert optimizer.get_config().keys() == optimizers.Adam().get_config().keys()
    fresh = type(optimizer).from_config(optimizer.get_config())
    assert type(fresh) is optimizers.Adam
    assert type(type(optimizer)(0.01)) is optimizers.Adam
    path = shared_folder() / "model.keras"
    if hvd.rank() == 0:
        model.save(path)
    hvd.barrier()
    plain = keras.models.load_model(path)
    assert type(plain.optimizer) is optimizers.Adam
    assert int(plain.optimizer.iterations) == 4
    loaded = hvd.load_model(path, exchange=LocalSteps(2))
    assert len(tracked_of(loaded.optimizer)) > 0
    loaded.fit(x, y, batch_size=4, verbose=0, callbacks=[alone])
