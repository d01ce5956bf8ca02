"""Optimizers that `compile` does not know: those of a GAN, and those of a loop of one's own."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from checks.agreement.own_weights import logged
from checks.checkpoints.runs import StopAt, Stopped, shared_folder
from checks.gans import GAN, gan, rows, state
from checks.marks import long

import hvdkit as hvd


def train_gan(folder: Path, stop: int | None = None, *, built: bool = True) -> GAN | None:
    model = gan(hvd.rank(), built=built, normalized=True)
    backup = hvd.callbacks.BackupAndRestore(folder, save_freq=2)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    stopping = [StopAt(stop)] if stop else []
    data = hvd.shard(rows(34), 4, seed=3)
    try:
        model.fit(data, epochs=2, verbose=0, callbacks=[start, backup, *stopping])
    except Stopped:
        backup._saver._pool.shutdown()
        hvd.barrier()
        return None
    return model


def require_that_a_gan_goes_on_to_the_bit(*, built: bool) -> None:
    never, folder = train_gan(shared_folder(), built=built), shared_folder()
    assert never is not None
    assert train_gan(folder, 3, built=built) is None
    again = train_gan(folder, built=built)
    assert again is not None
    assert int(again.d_optimizer.iterations) == int(never.d_optimizer.iterations)
    for mine, theirs in zip(state(never), state(again), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@long
def check_a_gan_goes_on_to_the_bit() -> None:
    require_that_a_gan_goes_on_to_the_bit(built=True)


@long
def check_optimizers_of_a_loop() -> None:
    folder = shared_folder()
    layers = [keras.layers.Dense(1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.layers.Input((1,)), *layers])

    def optimizers() -> dict[str, keras.optimizers.Optimizer]:
        return {"a": keras.optimizers.Adam(), "b": keras.optimizers.Adam()}

    first = optimizers()
    first["b"].build(layers[1].trainable_variables)
    first["b"].variables[2].assign([[3.0]])
    hvd.checkpoint.save(folder, model, first)
    second = optimizers()
    hvd.checkpoint.restore(folder, model, second)
    assert not second["a"].built
    assert len(second["b"].variables) == len(first["b"].variables)
    assert float(second["b"].variables[2][0, 0]) == 3.0


def check_what_can_not_be_restored_is_named() -> None:
    folder, model = shared_folder(), gan(0)
    plain = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.d_optimizer.build(plain.trainable_variables)  # those of another model
    hvd.checkpoint.save(folder, model)
    model = gan(0)
    model.another = keras.optimizers.SGD()
    with logged() as lines:
        hvd.checkpoint.restore(folder, model)
    if hvd.rank() == 0:
        (line,) = [line for line in lines if "holds" in line]
        assert "d_optimizer (Adam), which trains variables that are not the model's" in line
        assert "holds no state of another (SGD)" in line
