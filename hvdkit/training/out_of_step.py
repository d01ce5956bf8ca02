"""A `fit` whose ranks do not go in step, since their exchange says so (`OutOfStep`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.callbacks.learning_rate import LearningRateWarmupCallback
from hvdkit.data.sharded import ShardedData
from hvdkit.engine import (
    Sum,
    broadcast_object,
    ops,
    raise_everywhere,
    require_same,
    several_ranks,
    topology,
)
from hvdkit.engine.alone import alone
from hvdkit.engine.process_sets import process_set_of_ranks
from hvdkit.exchange.abilities import OutOfStep
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.layers.sync_batch_normalization import SyncBatchNormalization
from hvdkit.mesh.variable import described, variable_key
from hvdkit.optimizers.composition import attached_to, chains, leaves
from hvdkit.state.broadcast import broadcast_variables
from hvdkit.state.building import build_for_fit
from hvdkit.state.constants import renew_layers_of
from hvdkit.state.inventory import averaged, inventory
from hvdkit.state.outside_variables import remake_functions
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.features import Call, Feature


class RanksOutOfStep(Feature):
    """Ranks that train go through the epochs each by itself; those that don't serve meanwhile."""

    def __init__(self) -> None:
        self._exchange: OutOfStep | None = None
        self._optimizer: Any = None
        self._own: Any = None
        self._data: ShardedData | None = None

    def before(self, call: Call) -> None:
        """Get all ranks ready, and divide the data over those that train.

        Raises:
            ValueError, NotImplementedError: on every rank: something can't be right so.
        """
        if not call.trains or not several_ranks():
            return
        found = _found(call.model)
        if not found:
            return
        build_for_fit(call.model, optimizers_of(call.model))
        raise_everywhere(_problem(call, found), NotImplementedError)
        ((self._optimizer, self._exchange),) = found
        data = call.arguments["x"]
        self._data = data if isinstance(data, ShardedData) else None
        share = self._exchange.share()
        self._own = _own_ranks()
        require_same("the variables of the model", list(map(described, call.model.variables)))
        _keep_slots_apart(self._optimizer)
        self._exchange.begin(self._optimizer)
        if share is None:
            call.instead = lambda: self._serve(call)
            return
        self._divide(call, *share)
        call.add_callback(_Start(self._exchange))

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """Ranks are alone; after it they have the same weights and statistics."""
        if self._exchange is None:
            yield
            return
        trains = self._exchange.share() is not None
        with alone(self._own):
            yield
            if trains:
                self._exchange.leave()
        self._exchange.end()
        _average_statistics(call.model, trains)
        broadcast_variables(_steps_and_rate(self._optimizer), 0)
        if self._data is not None:  # who goes over it next, goes on with one epoch
            self._data.set_epoch(broadcast_object(self._data.epoch, 0, name="hvdkit.data_epoch"))

    def _divide(self, call: Call, number: int, count: int) -> None:
        validation = call.arguments["validation_data"]
        if self._data is not None:
            call.arguments["x"] = self._data.divided_anew(number, count, self._own)
        if isinstance(validation, ShardedData):
            call.arguments["validation_data"] = validation.divided_anew(0, 1, self._own)

    def _serve(self, call: Call) -> keras.callbacks.History:
        assert self._exchange is not None
        callbacks = keras.callbacks.CallbackList(
            call.callbacks, add_history=True, model=call.model, verbose=0, epochs=0, steps=0
        )
        callbacks.on_train_begin()
        self._exchange.serve()
        callbacks.on_train_end()
        return call.model.history


class _Start(keras.callbacks.Callback):
    """Take the weights after the other callbacks have sent or loaded theirs."""

    def __init__(self, exchange: OutOfStep) -> None:
        super().__init__()
        self._exchange = exchange

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take them."""
        self._exchange.start()


def _found(model: Any) -> list[tuple[Any, OutOfStep]]:
    """The optimizers of a model that update variables and have such an exchange."""
    return [
        (leaf, chain.exchange)
        for one in optimizers_of(model)
        for leaf in leaves(one.optimizer)
        for chain in chains(leaf)
        if isinstance(chain.exchange, OutOfStep)
    ]


def _problem(call: Call, found: list[tuple[Any, OutOfStep]]) -> str | None:
    optimizer, exchange = found[0]
    kind = type(exchange).__name__
    if len(found) > 1 or len(optimizers_of(call.model)) > 1:
        return f"{kind} is for a model with one optimizer that updates all of its variables."
    if not optimizer.built:
        return (
            f"{kind} has to know the variables before the first step: build the model and its "
            "optimizer, as optimizer.build(model.trainable_variables) does, before fit."
        )
    data = call.arguments["x"]
    if isinstance(data, ShardedData) and data.sharding.unequal:
        return (
            f"hvd.shard(..., weights=...) is for ranks that go in step, and with {kind} each goes "
            "as fast as it can: leave weights out."
        )
    for layer in call.model._flatten_layers():
        if isinstance(layer, SyncBatchNormalization):
            return (
                f"{layer.name} (SyncBatchNormalization) needs all ranks at each step, which do "
                f"not go in step with {kind}: use keras.layers.BatchNormalization."
            )
    if any(map(optimizer.is_local_var, call.model.trainable_variables)):
        return (
            f"{kind} updates variables on ranks that hold them all, and register_local_var has "
            "left some to each rank: leave that out, or use hvd.exchange.AllReduce."
        )
    for callback in call.callbacks:
        name = type(callback).__name__
        if isinstance(callback, (BackupAndRestore, keras.callbacks.BackupAndRestore)):
            return (
                f"{name} saves a step that all ranks have made, and there is none with {kind}: "
                "save the weights with hvd.callbacks.ModelCheckpoint, or call fit for some epochs "
                "at a time and save after each."
            )
        if isinstance(callback, LearningRateWarmupCallback):
            return (
                f"{name} begins with one rank's share of the learning rate, and with {kind} a rate "
                "is for one rank's gradients: leave it out, or give the optimizer a schedule."
            )
        if getattr(callback, "restore_best_weights", False):
            return (
                f"{name}(restore_best_weights=True) would restore a worker's weights, and with "
                f"{kind} all get those of the servers at the end: keep the best ones with "
                "hvd.callbacks.ModelCheckpoint(save_best_only=True)."
            )
    return None


def _own_ranks() -> Any:
    """The process set of this rank only; every rank makes those of all."""
    sets = [process_set_of_ranks([rank]) for rank in range(topology.size())]
    return sets[topology.rank()]


def _keep_slots_apart(optimizer: Any) -> None:
    """Let all slots be each rank's own: only a rank that updates a variable has its slots' values.

    Args:
        optimizer: a built one, which updates variables itself.
    """
    attached = attached_to(optimizer)
    assert attached is not None
    known = {variable_key(row.variable) for row in attached.tracked}
    known.update(map(variable_key, _steps_and_rate(optimizer)))
    known.update(map(variable_key, getattr(optimizer, "_accumulated_gradients", None) or []))
    attached.tracked += [
        Tracked(slot, Role.SLOT, slot.path)
        for slot in optimizer.variables
        if variable_key(slot) not in known
    ]


def _steps_and_rate(optimizer: Any) -> list[Any]:
    rate = optimizer._learning_rate
    return [optimizer._iterations, *([rate] if isinstance(rate, keras.Variable) else [])]


def _average_statistics(model: Any, trains: bool) -> None:
    """Give all ranks the mean of the moving statistics of those that trained."""
    variables = [row.variable for row in averaged(inventory(model))]
    if not variables:
        return
    trained = ops.allreduce(tf.constant(float(trains)), Sum, name="hvdkit_trained")
    sums = ops.grouped_allreduce(
        [tf.convert_to_tensor(v.value) * tf.cast(trains, v.dtype) for v in variables],
        Sum,
        name="hvdkit_statistics_of_those_that_trained",
    )
    for variable, total in zip(variables, sums, strict=True):
        variable.assign(total / tf.cast(trained, variable.dtype))
    if renew_layers_of(variables):
        remake_functions(model)
