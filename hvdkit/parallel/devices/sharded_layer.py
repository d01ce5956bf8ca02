"""What layers whose weights are sharded over devices have in common.

Such a layer has shards, each a layer on its device, which all get the same inputs, and a joiner on
the first device, which concatenates or sums what they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit import patches
from hvdkit.engine import logger
from hvdkit.graph.rebuild import undrawn
from hvdkit.parallel.devices import optimizer_files, shards
from hvdkit.parallel.devices.local_devices import existing_devices, local_devices, refuse_strategy
from hvdkit.parallel.devices.optimizer_placement import real_variables
from hvdkit.parallel.devices.placed_part import PlacedPart, placed
from hvdkit.parallel.devices.shards import mark_shards
from hvdkit.parallel.devices.staged_execution import run

Arrays = list[np.ndarray]


@dataclass
class _Untracked:
    """Layers that Keras does not see in an attribute."""

    unsharded: Any
    shards: list[Any]
    joiner: Any
    placed: list[PlacedPart] = field(default_factory=list)


class DeviceShardedLayer(keras.layers.Layer):
    """A layer whose weights are sharded over the devices of a process.

    Saved files hold the weights and the optimizer's state as the unsharded layer has them, so they
    load with any number of devices. To the optimizer each shard is a variable of its own, so what
    takes a norm of one variable (`clipnorm`, LAMB, Adafactor, Muon) is refused; `global_clipnorm`
    is as unsharded.

    Args:
        unsharded: the unsharded layer, not built: it says what the weights begin as.
        devices: a device for each shard; None for all of this process's.
        count: how many units there are to shard; None if `build` will say it with `shard_over`.
        units: what these are, in messages.
        **kwargs: as for every `keras.layers.Layer`.

    Raises:
        ValueError: a device does not exist; there are more devices than units; the unsharded layer
            has a constraint, or a regularizer that is no sum over the weights.
    """

    places_itself = True

    def __init__(
        self,
        unsharded: Any,
        devices: Sequence[str] | None,
        count: int | None,
        units: str = "units",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        refuse_strategy(f"hvd.parallel.{type(self).__name__}")
        _require_shardable(unsharded)
        self.devices = existing_devices(devices)
        self._named = devices is not None
        self.ranges: list[tuple[int, int]] = []
        if count is not None:
            self.shard_over(count, units)
        self.supports_jit = False  # XLA compiles for one device
        self._held = _Untracked(unsharded, [], None)

    def make_shards(self, unsharded: Any) -> tuple[list[Any], Any]:
        """The layers that hold the shards, in the order of the devices, and the joiner."""
        raise NotImplementedError

    def shard(self, weights: Arrays) -> list[Arrays]:
        """The weights of the shards, and of the joiner, of those of the unsharded layer."""
        raise NotImplementedError

    def merge(self, weights: list[Arrays]) -> Arrays:
        """The opposite of `shard`."""
        raise NotImplementedError

    def build_shards(self, *args: Any, **kwargs: Any) -> None:
        """Make the weights: those that the unsharded layer begins with, on their devices.

        Takes the shapes that the unsharded layer's `build` takes.
        """
        self._shapes = args, kwargs
        with tf.init_scope(), real_variables():
            with tf.device("CPU:0"):
                unsharded = self._held.unsharded
                unsharded.build(*args, **kwargs)
                weights = unsharded.get_weights()
            with undrawn():  # the weights were only needed for once
                self._held.unsharded = type(unsharded).from_config(unsharded.get_config())
                self._held.shards, self._held.joiner = self.make_shards(self._held.unsharded)
            for layer, device in self._with_devices():
                self._tracker.add_to_store("layers", layer)  # not in an attribute: saved unsharded
                with tf.device(device):
                    layer.build(*args, **kwargs)
                self._held.placed.append(placed(layer, device))
            mark_shards(self)
            patches.install(*shards.PATCHES, *optimizer_files.PATCHES)
            self.set_unsplit_weights(weights)

    def shard_over(self, count: int, units: str) -> None:
        """Shard so many units, such as heads or rows, over the devices, or over the first of them.

        Raises:
            ValueError: there are more devices than units, and they were named.
        """
        if self._named and len(self.devices) > count:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} can't be sharded over {len(self.devices)} "
                f"devices: it has {count} {units} to shard. Name fewer devices."
            )
        self.devices = self.devices[:count]
        self.ranges = ranges_of(count, len(self.devices))

    def run_shards(self, inputs: Any) -> Any:
        """Give the inputs to all shards, and what they return to the joiner."""
        refuse_strategy(f"hvd.parallel.{type(self).__name__}")
        *shards, joiner = self._held.placed
        found = [run([shard], inputs, 1) for shard in shards]
        joined, loss = run([joiner], [outputs for outputs, _ in found], 1)
        for each in (*(loss for _, loss in found), loss):
            if each is not None:
                self.add_loss(each)
        return joined

    def holders(self) -> list[Any]:
        """The layers that hold the weights: the shards, and the joiner."""
        return [*self._held.shards, self._held.joiner]

    def unsplit_weights(self) -> Arrays:
        """The weights as `get_weights` of the unsharded layer has them."""
        return self.merge([[np.asarray(v) for v in layer.weights] for layer in self.holders()])

    def set_unsplit_weights(self, weights: Arrays) -> None:
        """Take the weights of an unsharded layer, as its `get_weights` has them."""
        sharded = self.shard([np.asarray(w) for w in weights])
        for layer, own in zip(self.holders(), sharded, strict=True):
            for variable, value in zip(layer.weights, own, strict=True):
                variable.assign(value)

    def unsplit(self) -> Any:
        """A new unsharded layer with the weights of this one, on one device.

        Raises:
            ValueError: this layer is not built.
        """
        if not self.built:
            raise ValueError(f"{self.name!r} has no weights yet: call it once, or its build().")
        with undrawn():
            layer = type(self._held.unsharded).from_config(self._held.unsharded.get_config())
        layer.build(*self._shapes[0], **self._shapes[1])
        layer.set_weights(self.unsplit_weights())
        return layer

    @classmethod
    def from_unsplit(cls, layer: Any, devices: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """A sharded layer with the name, configuration and weights of an unsharded, built one.

        Args:
            layer: an unsharded layer of the class that this one shards.
            devices: a device for each shard; None for all.
            **kwargs: what the sharded layer takes besides, such as `split`.
        """
        with undrawn():
            sharded = cls.from_config({**layer.get_config(), "devices": devices, **kwargs})
        sharded.build_from_config(layer.get_build_config())
        sharded.set_unsplit_weights(layer.get_weights())
        return sharded

    def save_own_variables(self, store: Any) -> None:
        """Save the weights as the unsharded layer does."""
        for i, weight in enumerate(self.unsplit_weights()):
            store[str(i)] = weight

    def load_own_variables(self, store: Any) -> None:
        """Load weights that a layer with any number of devices has saved."""
        self.set_unsplit_weights([np.asarray(store[str(i)]) for i in range(len(store.keys()))])

    def get_config(self) -> dict[str, Any]:
        """The unsharded layer's configuration, and the devices."""
        return {
            **self._held.unsharded.get_config(),
            **super().get_config(),
            "devices": self.devices,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make the layer again; on a machine without its devices, on those that there are."""
        config = dict(config)
        try:
            existing_devices(config["devices"])
        except ValueError:
            logger.info(
                "hvdkit: %s, saved on %s, is on %s.",
                config["name"],
                config["devices"],
                local_devices(),
            )
            config["devices"] = None
        return super().from_config(config)

    def _with_devices(self) -> list[tuple[Any, str]]:
        """The holders, with their devices."""
        return list(zip(self.holders(), [*self.devices, self.devices[0]], strict=True))


def ranges_of(count: int, shards: int) -> list[tuple[int, int]]:
    """The ranges of `count` units that shards have, which differ by one at most."""
    return list(pairwise(count * i // shards for i in range(shards + 1)))


def own_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out what every layer is given, for the sharded and the unsharded layer alike."""
    names = ("name", "dtype", "trainable", "activity_regularizer")
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def require_way(split: str) -> None:
    """Raise unless `split` is a way to shard a weight.

    Raises:
        ValueError: it is not.
    """
    if split not in ("columns", "rows"):
        raise ValueError(f'split={split!r}: a weight is sharded by "columns" or "rows".')


def concatenated(shards: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The unsharded weight of its shards along an axis."""
    return np.concatenate(shards, axis=axis)


def sliced(weight: np.ndarray, ranges: Sequence[tuple[int, int]], axis: int) -> Arrays:
    """The shards of a weight along an axis."""
    return [np.take(weight, range(start, stop), axis=axis) for start, stop in ranges]


def _require_shardable(layer: Any) -> None:
    sums = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    for name, value in vars(layer).items():
        if name == "activity_regularizer":  # it sees all outputs
            continue
        kind = name.rpartition("_")[2]
        if kind == "constraint" and value is not None:
            raise ValueError(
                f"{name.strip('_')} of {layer.name!r} acts on unsharded weights, which a sharded "
                "layer does not have on one device. Leave it out, or use the unsharded layer."
            )
        if kind == "regularizer" and value is not None and not isinstance(value, sums):
            raise ValueError(
                f"{name.strip('_')} of {layer.name!r} ({type(value).__name__}) is not a sum over "
                "the weights: a sharded layer takes L1, L2 and L1L2."
            )
