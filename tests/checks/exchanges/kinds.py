"""Three ways to stay together that are none of hvdkit's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

import hvdkit as hvd
from hvdkit.exchange import Aggregated, Gathered, Role, Tracked, variable_key


class Signs:
    """A coarse codec: for each element its sign, and one scale for a tensor."""

    additive = False

    def encode(self, tensor: tf.Tensor) -> tuple[Any, None]:
        return (tensor >= 0, tf.reduce_mean(tf.abs(tensor))), None

    def decode(self, payload: Any, context: None) -> tf.Tensor:
        positive, scale = payload
        return tf.where(positive, scale, -scale)


@keras.saving.register_keras_serializable("checks")
class ErrorFeedback:
    """An aggregator: what the others did not see is sent with the next step.

    Seide et al., 2014, https://doi.org/10.21437/Interspeech.2014-274.
    """

    def __init__(self) -> None:
        self._inner = Gathered(Signs())
        self.residuals: dict[int, keras.Variable] = {}

    def build(self, variables: Sequence[Any], ranks: hvd.ProcessSet) -> list[Tracked]:
        self._inner.build(variables, ranks)
        made = [keras.Variable(tf.zeros(v.shape), trainable=False) for v in variables]
        self.residuals.update(zip(map(variable_key, variables), made, strict=True))
        return [
            Tracked(residual, Role.RESIDUAL, f"residual/{variable.path}")
            for variable, residual in zip(variables, made, strict=True)
        ]

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        residuals = [self.residuals[variable_key(variable)] for variable in variables]
        given = [tensor + kept.value for tensor, kept in zip(bucket, residuals, strict=True)]
        aggregated = self._inner.aggregate(given, variables, name)
        for kept, whole, sent in zip(residuals, given, aggregated.sent, strict=True):
            kept.assign(whole - sent)
        return aggregated

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ErrorFeedback:
        return cls(**config)


class LocalSteps:
    """Each rank steps alone; after every `every` steps an outer momentum moves to their mean.

    Douillard et al., 2023, https://arxiv.org/abs/2311.08105.
    """

    def __init__(self, every: int = 2, momentum: float = 0.0) -> None:
        self.every = every
        self.momentum = momentum
        self.anchors: dict[int, keras.Variable] = {}
        self.velocities: dict[int, keras.Variable] = {}

    @property
    def ranks(self) -> hvd.ProcessSet:
        return hvd.global_process_set

    def build(self, variables: Sequence[Any]) -> list[Tracked]:
        rows = []
        for v in variables:
            key = variable_key(v)
            self.anchors[key] = keras.Variable(tf.identity(v.value), trainable=False)
            self.velocities[key] = keras.Variable(tf.zeros(v.shape), trainable=False)
            for name, kept in (("anchor", self.anchors), ("velocity", self.velocities)):
                path = f"{name}/{v.path}"
                rows.append(Tracked(kept[key], Role.SLOT, path, same_on=self.ranks))
            rows.append(Tracked(v, Role.WEIGHT, v.path))
        return rows

    def gradients(self, gradients: Sequence[Any], variables: Sequence[Any], name: str) -> list[Any]:
        return list(gradients)

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        def meet() -> None:
            means = hvd.grouped_allreduce([v.value for v in variables], name="local_steps")
            for v, mean in zip(variables, means, strict=True):
                anchor, velocity = (
                    kept[variable_key(v)] for kept in (self.anchors, self.velocities)
                )
                velocity.assign(self.momentum * velocity.value + anchor.value - mean)
                anchor.assign(anchor.value - velocity.value)
                v.assign(anchor.value)

        tf.cond((iteration + 1) % self.every == 0, meet, lambda: None)

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        return list(variables)

    def agreed_by(self) -> hvd.ProcessSet:
        return self.ranks

    def get_config(self) -> dict[str, Any]:
        return {"every": self.every, "momentum": self.momentum}


class ShardedRows:
    """Each rank updates its rows of a matrix, and rank 0 the vectors.

    Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054.
    """

    def __init__(self) -> None:
        self.shards: dict[int, keras.Variable | None] = {}

    @property
    def ranks(self) -> hvd.ProcessSet:
        return hvd.global_process_set

    def build(self, variables: Sequence[Any]) -> list[Tracked]:
        rows = []
        for v in variables:
            key = variable_key(v)
            if self._by_rows(v):
                shard = keras.Variable(self._rows(v.value), trainable=False, name="shard")
                self.shards[key] = shard
                rows.append(Tracked(shard, Role.SLOT, f"shard/{v.path}"))
            elif hvd.rank():
                self.shards[key] = None
        return rows

    def gradients(self, gradients: Sequence[Any], variables: Sequence[Any], name: str) -> list[Any]:
        owned = []
        for i, (gradient, v) in enumerate(zip(gradients, variables, strict=True)):
            if self._by_rows(v):
                self.shards[variable_key(v)].assign(self._rows(v.value))
                owned.append(hvd.reducescatter(gradient, name=f"{name}.rows{i}"))
            else:
                mean = hvd.allreduce(gradient, name=f"{name}.whole{i}")
                owned.append(None if hvd.rank() else mean)
        return owned

    def weights(self, variables: Sequence[Any], iteration: Any) -> None:
        for i, v in enumerate(variables):
            if self._by_rows(v):
                shard = self.shards[variable_key(v)].value
                v.assign(hvd.allgather(shard, name=f"sharded_rows.rows{i}"))
            else:
                v.assign(hvd.broadcast(v.value, 0, name=f"sharded_rows.whole{i}"))

    def owned(self, variables: Sequence[Any]) -> list[Any]:
        return [self.shards.get(variable_key(v), v) for v in variables]

    def agreed_by(self) -> hvd.ProcessSet:
        return self.ranks

    def get_config(self) -> dict[str, Any]:
        return {}

    def _by_rows(self, variable: Any) -> bool:
        return len(variable.shape) > 1 and variable.shape[0] % hvd.size() == 0

    def _rows(self, value: tf.Tensor) -> tf.Tensor:
        count = value.shape[0] // hvd.size()
        return value[hvd.rank() * count : (hvd.rank() + 1) * count]
