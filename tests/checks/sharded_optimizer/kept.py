"""Shards are saved by each rank, and read with any stage, with none, and by any number of ranks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks
from checks.sharded_optimizer.twins import as_tensors, drawn
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import Sharded
from hvdkit.optimizers.composition import tracked_of


def _sharded(stage: int | None, make: Any) -> keras.Model:
    model = mlp(3)
    exchange = Sharded(stage) if stage else None
    model.compile(hvd.DistributedOptimizer(make(), exchange=exchange), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _step(model: keras.Model, steps: range) -> None:
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    for step in steps:
        gradients = as_tensors(drawn(step, shapes)[hvd.rank()])
        model.optimizer.apply(gradients, model.trainable_variables)


@long
def check_resumed_to_the_bit_in_fit() -> None:
    def model() -> keras.Model:
        return build(distributed={"exchange": Sharded()})

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=4, model=model(), save_freq=1) is None
    require_same_end(never, train(folder, model=model(), save_freq=1))


def check_each_ranks_shards_are_saved() -> None:
    """Fill them with numbers of this rank, save, zero, load, compare."""
    for make in (optimizers.Adam, optimizers.Adafactor):
        model, folder = _sharded(1, make), shared_folder()
        slots = [row.variable for row in tracked_of(model.optimizer)]
        rng = np.random.default_rng(hvd.rank())
        values = [np.asarray(rng.normal(size=slot.shape), "float32") for slot in slots]
        for slot, value in zip(slots, values, strict=True):
            slot.assign(value)
        hvd.checkpoint.save(folder, model)
        for slot in slots:
            slot.assign(np.zeros(slot.shape))
        hvd.checkpoint.restore(folder, model)
        for slot, value in zip(slots, values, strict=True):
            np.testing.assert_array_equal(slot.numpy(), value)


@long
def check_another_stage_goes_on_where_one_stopped() -> None:
    """In the middle of an accumulation, and from and to an optimizer that is not sharded."""
    _go_on((1, 2), (2, None), (None, 1))


@long
def check_any_stage_goes_on_where_any_stopped() -> None:
    _go_on((1, 1), (2, 2), (2, 1), (1, None), (None, 2))


def _go_on(*changes: tuple[int | None, int | None]) -> None:

    def accumulates() -> Any:
        return optimizers.Adam(0.05, gradient_accumulation_steps=3)

    end = _sharded(None, accumulates)
    _step(end, range(7))
    for before, after in changes:
        folder = shared_folder()
        first, second = _sharded(before, accumulates), _sharded(after, accumulates)
        _step(first, range(4))
        hvd.checkpoint.save(folder, first)
        hvd.checkpoint.restore(folder, second)
        _step(second, range(4, 7))
        same_on_all_ranks(second)
        for mine, expected in zip(second.get_weights(), end.get_weights(), strict=True):
            np.testing.assert_allclose(
                mine, expected, rtol=1e-4, atol=1e-5, err_msg=f"{before} {after}"
            )


@long
def check_slots_of_rules_that_see_whole_variables_are_put_together() -> None:
    for make in (lambda: optimizers.Adafactor(0.05), lambda: optimizers.Nadam(0.05)):
        end = _sharded(None, make)
        _step(end, range(5))
        for before, after in ((1, None), (None, 1)):
            folder = shared_folder()
            first, second = _sharded(before, make), _sharded(after, make)
            _step(first, range(3))
            hvd.checkpoint.save(folder, first)
            hvd.checkpoint.restore(folder, second)
            _step(second, range(3, 5))
            for mine, expected in zip(second.get_weights(), end.get_weights(), strict=True):
                np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


@long
def check_an_optimizer_that_has_stepped_on_each_rank_is_divided() -> None:
    """As those of a file that all ranks load."""
    for make in (lambda: optimizers.Nadam(0.05), lambda: optimizers.Adafactor(0.05)):
        plain, mine = mlp(3), mlp(3)
        reference, optimizer = make(), make()
        shapes = [tuple(v.shape) for v in plain.trainable_variables]
        for model, one in ((plain, reference), (mine, optimizer)):
            one.build(model.trainable_variables)
            one.apply(as_tensors(drawn(0, shapes)[0]))
        hvd.DistributedOptimizer(optimizer, exchange=Sharded())
        assert int(optimizer.iterations) == 1
        of_ranks = drawn(1, shapes)
        optimizer.apply(as_tensors(of_ranks[hvd.rank()]))
        reference.apply(as_tensors([np.mean(g, axis=0) for g in zip(*of_ranks, strict=True)]))
        for one, expected in zip(mine.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


@long
def check_another_model_is_refused() -> None:
    folder = shared_folder()
    hvd.checkpoint.save(folder, _sharded(1, optimizers.Adam))
    other = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    other.compile(hvd.DistributedOptimizer(optimizers.Adam(), exchange=Sharded()), "mse")
    other.optimizer.build(other.trainable_variables)
    with pytest.raises(hvd.checkpoint.CheckpointError, match="another model"):
        hvd.checkpoint.restore(folder, other)


@long
def check_a_file_of_keras_holds_weights_and_no_slots() -> None:
    model, path = _sharded(1, optimizers.Adam), shared_folder() / "model.keras"
    _step(model, range(2))
    if hvd.rank() == 0:
        model.save(path)
    hvd.barrier()
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        plain = keras.models.load_model(path)
    for mine, expected in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert type(plain.optimizer) is optimizers.Adam
    exchange = Sharded(2)
    stored = keras.saving.serialize_keras_object(exchange)
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is Sharded
    assert again.get_config() == exchange.get_config() == {"stage": 2}


@long
def check_a_start_from_rank_0() -> None:
    """Slots that start from the weights start from those of rank 0, too."""
    x, y = data(8, seed=hvd.rank())
    make = getattr(optimizers, "ScheduleFreeAdamW", optimizers.Adam)
    models = []
    for exchange in (None, Sharded()):
        model = mlp(hvd.rank())
        model.compile(hvd.DistributedOptimizer(make(0.05), exchange=exchange), "mse")
        model.optimizer.build(model.trainable_variables)
        model.fit(
            x,
            y,
            batch_size=4,
            verbose=0,
            shuffle=False,
            callbacks=[
                hvd.callbacks.BroadcastGlobalVariablesCallback(0),
                hvd.callbacks.ConsistencyCheck(every_n_steps=1),
            ],
        )
        same_on_all_ranks(model)
        models.append(model)
    for mine, expected in zip(models[1].get_weights(), models[0].get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


@long
def check_a_rank_that_has_stepped_alone_sends_nothing() -> None:
    """Its slots are no start for the others, who would go on with their own without a word."""
    model = _sharded(1, optimizers.Adam)
    if hvd.rank() == 0:
        model.optimizer._iterations.assign(3)
    x, y = data(8)
    with pytest.raises(ValueError, match="BackupAndRestore"):
        model.fit(
            x,
            y,
            batch_size=4,
            verbose=0,
            callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
        )
