"""The one list of what a training consists of, and what its readers take of it."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import variable_key
from hvdkit.optimizers.composition import attached_to
from hvdkit.state.inventory import agreeing, averaged, inventory, taken_over

L, O = keras.layers, keras.optimizers  # noqa: E741


class Memory(L.Layer):
    """A layer inside a layer, with weights that it updates itself."""

    hvd_over_ranks: ClassVar = {"queue": "own"}

    def build(self, shape: Any) -> None:
        self.queue = self.add_weight(shape=(2,), trainable=False, name="queue")
        self.mean = self.add_weight(shape=(2,), trainable=False, name="mean")
        self.count = self.add_weight(dtype="int32", trainable=False, name="count")
        self.scale = self.add_weight(shape=(1,), name="scale")

    def call(self, x: Any) -> Any:
        return x * self.scale


class Composite(L.Layer):
    """A layer with a layer, and with a weight of its own."""

    def __init__(self) -> None:
        super().__init__(name="composite")
        self.memory = Memory(name="memory")

    def build(self, shape: Any) -> None:
        self.bias = self.add_weight(shape=(1,), name="bias")
        self.memory.build(shape)

    def call(self, x: Any) -> Any:
        return self.memory(x) + self.bias


class Everything(keras.Model):
    """Two optimizers, a nested model, and each kind of variable."""

    def __init__(self) -> None:
        super().__init__(name="everything")
        inner = [L.Input((4, 6)), L.BatchNormalization(name="norm"), L.Dense(6, name="inside")]
        self.nested = keras.Sequential(inner, name="nested")
        self.adapted = L.Normalization(name="adapted")
        self.adapted.build((None, 4, 6))
        self.frozen_norm = L.BatchNormalization(trainable=False, name="frozen_norm")
        self.rnn = L.LSTM(3, stateful=True, name="rnn")
        self.frozen = L.Dense(3, trainable=False, name="frozen")
        self.drop = L.Dropout(0.5, name="drop")
        self.composite = Composite()
        self.head = L.Dense(2, name="head")
        self.critic = L.Dense(2, name="critic")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.frozen_norm(self.adapted(self.nested(x, training=training)))
        x = self.composite(self.drop(self.frozen(self.rnn(x)), training=training))
        return self.head(x), self.critic(x)


def everything() -> Everything:
    """A model with all its variables, and with both optimizers built."""
    model = Everything()
    model(np.zeros((2, 4, 6), "float32"))
    adam = hvd.DistributedOptimizer(O.Adam(), backward_passes_per_step=2)
    adam.register_local_var(model.head.kernel)
    model.compile(O.LossScaleOptimizer(adam))
    model.critic_optimizer = hvd.DistributedOptimizer(O.SGD(momentum=0.9))
    critic = {variable_key(variable) for variable in model.critic.variables}
    model.optimizer.build([v for v in model.trainable_variables if variable_key(v) not in critic])
    model.critic_optimizer.build(model.critic.trainable_variables)
    return model


def _expected(model: Everything) -> dict[Role, list[Any]]:
    """The role of each variable, except for the slots, which are all that is left."""
    norm, frozen_norm = model.nested.get_layer("norm"), model.frozen_norm
    memory = model.composite.memory
    statistics = [norm.moving_mean, norm.moving_variance, memory.mean, memory.count]
    local = [model.head.kernel, memory.queue]
    seeds = [model.drop.seed_generator.state, model.rnn.cell.seed_generator.state]
    apart = {variable_key(variable) for variable in [*statistics, *local, *seeds]}
    weights = [v for v in model.weights if variable_key(v) not in apart]
    adam = model.optimizer.inner_optimizer
    assert len(model.adapted.variables) == 3, "its mean, its variance and its count"
    assert len(frozen_norm.variables) == 4
    return {
        Role.WEIGHT: weights,
        Role.STATISTIC: statistics,
        Role.LOCAL: local,
        Role.SEED: seeds,
        Role.RECURRENT: model.rnn.states,
        Role.ACCUMULATOR: adam._accumulated_gradients,
    }


def _keys(rows: list[Tracked]) -> list[int]:
    return sorted(variable_key(row.variable) for row in rows)


def check_every_variable_is_in_the_inventory_once_with_its_role() -> None:
    model = everything()
    rows = inventory(model)
    expected = _expected(model)
    slots = [*model.optimizer.variables, *model.critic_optimizer.variables]
    apart = {variable_key(v) for v in expected[Role.ACCUMULATOR]}
    expected[Role.SLOT] = [v for v in slots if variable_key(v) not in apart]
    for role in Role:
        found = [row for row in rows if row.role is role]
        assert _keys(found) == sorted(map(variable_key, expected.get(role, []))), role
    for other in hvd.allgather_object([(row.path, row.role) for row in rows]):
        assert other == [(row.path, row.role) for row in rows]


def check_readers_take_what_is_theirs() -> None:
    model = everything()
    rows = inventory(model)
    names = {variable_key(row.variable): row for row in rows}
    memory, norm = model.composite.memory, model.nested.get_layer("norm")
    adam = model.optimizer.inner_optimizer

    def of(*variables: Any) -> set[int]:
        return {variable_key(variable) for variable in variables}

    local_slots = [v for v in adam.variables if v.name.startswith("everything_head_kernel_")]
    local_slots = [v for v in local_slots if "accumulator" not in v.name]
    assert len(local_slots) == 2, [v.name for v in adam.variables]
    statistics = of(norm.moving_mean, norm.moving_variance, memory.mean)
    seeds = of(*[row.variable for row in rows if row.role is Role.SEED])
    own = of(model.head.kernel, memory.queue, *model.rnn.states, *local_slots) | seeds
    accumulators = of(*adam._accumulated_gradients)
    assert set(_keys(averaged(rows))) == statistics
    assert set(_keys(taken_over(rows))) == set(names) - own
    passing = statistics | of(memory.count) | accumulators
    assert set(_keys(agreeing(rows))) == set(names) - own - passing
    more = inventory(model, local={variable_key(model.frozen.kernel)})
    assert set(_keys(agreeing(more))) == set(_keys(agreeing(rows))) - of(model.frozen.kernel)


def check_what_an_exchange_keeps_is_in_the_inventory() -> None:
    model = everything()
    optimizer = model.critic_optimizer
    residual = keras.Variable(np.zeros(3, "float32"), trainable=False)
    outer = keras.Variable(np.zeros(3, "float32"), trainable=False)
    attached = attached_to(optimizer)
    assert attached is not None
    attached.tracked = [
        Tracked(residual, Role.RESIDUAL, "critic/residual"),
        Tracked(outer, Role.SLOT, "critic/outer", same_on=hvd.global_process_set),
        Tracked(model.critic.kernel, Role.WEIGHT, model.critic.kernel.path),
    ]
    rows = {row.path: row for row in inventory(model)}
    assert rows["critic/residual"].variable is residual
    assert rows[model.critic.kernel.path].same_on is None
    assert model.critic.kernel.path in [row.path for row in taken_over(rows.values())]
    assert model.critic.kernel.path not in [row.path for row in agreeing(rows.values())]
    assert "critic/outer" in [row.path for row in taken_over(rows.values())]
    assert "critic/outer" in [row.path for row in agreeing(rows.values())]
    assert "critic/residual" not in [row.path for row in taken_over(rows.values())]
