"""Models that hold several optimizers, of which Keras's `fit` knows one or none."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from checks.agreement.at_start import START
from checks.gans import GAN, gan, rows, state
from checks.marks import long

import hvdkit as hvd

STEPS, BATCH = 3, 4


def _fit(model: GAN, *callbacks: object, **options: object) -> None:
    data = hvd.shard(rows(hvd.size() * BATCH * STEPS), BATCH, shuffle=False)
    model.fit(data, verbose=0, callbacks=list(callbacks), **options)


def _require_same_state(model: GAN) -> None:
    first, *others = hvd.allgather_object(state(model))
    for other in others:
        for mine, theirs in zip(first, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@long
def check_a_gan_trains_as_in_one_process() -> None:
    """It is the GAN of the global batch, though its models are built by their first step."""
    alone = gan(0, lambda optimizer: optimizer)
    start = alone.get_weights()
    x, y = rows(hvd.size() * BATCH * STEPS)
    alone.fit(x, y, batch_size=hvd.size() * BATCH, shuffle=False, verbose=0)
    model = gan(100 + hvd.rank(), built=False, jit_compile=True)
    if hvd.rank() == 0:
        model.discriminator.build((None, 2))
        model.generator.build((None, 3))
        model.set_weights(start)
    _fit(model, START(0))
    _require_same_state(model)
    for mine, theirs in zip(state(model), state(alone), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-5)
    assert len(model.d_optimizer.variables) == 2 + 2 * 4, "slots of its own variables only"


@long
def check_state_of_all_optimizers_is_sent_and_compared() -> None:
    """A rank goes on with a model that was trained before."""
    model = gan(hvd.rank())
    if hvd.rank() == 0:
        model.d_optimizer.build(model.discriminator.trainable_variables)
        model.d_optimizer.iterations.assign(17)
        model.d_optimizer.variables[2].assign(np.ones((2, 4)))
    _fit(model, START(0))
    assert int(model.d_optimizer.iterations) == 17 + STEPS
    assert int(model.optimizers["g"].iterations) == STEPS
    _require_same_state(model)
    slot = model.optimizers["g"].variables[2]
    slot.assign(slot + float(hvd.rank()))
    with pytest.raises(hvd.RankMismatchError, match=r"before the first step.*adam.* by at most"):
        _fit(model)


@long
def check_an_optimizer_that_is_not_distributed_is_named() -> None:
    wrapped: list[object] = []

    def first_only(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        wrapped.append(optimizer)
        return hvd.DistributedOptimizer(optimizer) if len(wrapped) == 1 else optimizer

    with pytest.raises(hvd.RankMismatchError) as caught:
        _fit(gan(hvd.rank(), first_only), START(0))
    text = str(caught.value)
    assert "after the first update (epoch 1, step 1)" in text
    assert "The optimizer optimizers['g'] (Adam) is not distributed" in text
    assert "RMSprop" not in text, "compile's default, which is not used"


@long
def check_statistics_are_averaged_and_losses_scaled() -> None:
    """Each of two optimizers asks all ranks whether its gradients are finite."""

    def scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        return hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(optimizer, 1.0))

    model = gan(hvd.rank(), scaled, normalized=True)
    _fit(model, START(0), hvd.callbacks.ConsistencyCheck(every_n_epochs=1))
    _require_same_state(model)
    assert int(model.d_optimizer.iterations) == STEPS


@long
def check_policies_of_all_optimizers_act() -> None:
    def stopping(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
        return hvd.DistributedOptimizer(optimizer, nonfinite=hvd.nonfinite.Stop())

    model = gan(0, stopping)
    real, noise = rows(hvd.size() * BATCH)
    real[0, 0] = np.nan
    with pytest.raises(hvd.NonfiniteGradientError, match="held NaN or Inf"):
        model.fit(hvd.shard((real, noise), BATCH), verbose=0, callbacks=[START(0)])
