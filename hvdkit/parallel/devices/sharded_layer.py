"""What layers whose weights are divided over devices have in common.

Such a layer has pieces, each a layer on its device, which all get the same inputs, and a joiner on
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
from hvdkit.parallel.devices.shards import mark_pieces
from hvdkit.parallel.devices.stage import Stage, claimed
from hvdkit.parallel.devices.staged_execution import run

Arrays = list[np.ndarray]


@dataclass
class _Untracked:
    """Layers that Keras does not see in an attribute."""

    whole: Any
    pieces: list[Any]
    joiner: Any
    stages: list[Stage] = field(default_factory=list)


class DividedLayer(keras.layers.Layer):
    """A layer whose weights are divided over devices.

    Saved files hold the weights and the optimizer's state as the undivided layer has them, so they
    load with any number of devices. To the optimizer each piece is a variable of its own, so what
    takes a norm of one variable (`clipnorm`, LAMB, Adafactor, Muon) is refused; `global_clipnorm`
    is as undivided.

    Args:
        whole: the undivided layer, not built: it says what the weights begin as.
        devices: a device for each piece; None for all of this process's.
        count: how many units there are to divide; None if `build` will say it with `divide_over`.
        units: what these are, in messages.
        **kwargs: as for every `keras.layers.Layer`.

    Raises:
        ValueError: a device does not exist; there are more devices than units; the undivided layer
            has a constraint, or a regularizer that is no sum over the weights.
    """

    places_itself = True

    def __init__(
        self,
        whole: Any,
        devices: Sequence[str] | None,
        count: int | None,
        units: str = "units",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        refuse_strategy(f"hvd.parallel.{type(self).__name__}")
        _require_divisible(whole)
        self.devices = existing_devices(devices)
        self._named = devices is not None
        self.ranges: list[tuple[int, int]] = []
        if count is not None:
            self.divide_over(count, units)
        self.supports_jit = False  # XLA compiles for one device
        self._held = _Untracked(whole, [], None)

    def make_pieces(self, whole: Any) -> tuple[list[Any], Any]:
        """The layers that hold the pieces, in the order of the devices, and the joiner."""
        raise NotImplementedError

    def divide(self, weights: Arrays) -> list[Arrays]:
        """The weights of the pieces, and of the joiner, of those of the undivided layer."""
        raise NotImplementedError

    def merge(self, weights: list[Arrays]) -> Arrays:
        """The opposite of `divide`."""
        raise NotImplementedError

    def build_pieces(self, *args: Any, **kwargs: Any) -> None:
        """Make the weights: those that the undivided layer begins with, on their devices.

        Takes the shapes that the undivided layer's `build` takes.
        """
        self._shapes = args, kwargs
        with tf.init_scope(), real_variables():
            with tf.device("CPU:0"):
                whole = self._held.whole
                whole.build(*args, **kwargs)
                weights = whole.get_weights()
            with undrawn():  # the weights were only needed for once
                self._held.whole = type(whole).from_config(whole.get_config())
                self._held.pieces, self._held.joiner = self.make_pieces(self._held.whole)
            for layer, device in self._placed():
                self._tracker.add_to_store("layers", layer)  # not in an attribute: saved as a whole
                with tf.device(device):
                    layer.build(*args, **kwargs)
                self._held.stages.append(claimed(layer, device))
            mark_pieces(self)
            patches.install(*shards.PATCHES, *optimizer_files.PATCHES)
            self.set_unsplit_weights(weights)

    def divide_over(self, count: int, units: str) -> None:
        """Divide so many units, such as heads or rows, over the devices, or over the first of them.

        Raises:
            ValueError: there are more devices than units, and they were named.
        """
        if self._named and len(self.devices) > count:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} can't be divided over {len(self.devices)} "
                f"devices: it has {count} {units} to divide. Name fewer devices."
            )
        self.devices = self.devices[:count]
        self.ranges = ranges_of(count, len(self.devices))

    def run_pieces(self, inputs: Any) -> Any:
        """Give the inputs to all pieces, and what they return to the joiner."""
        refuse_strategy(f"hvd.parallel.{type(self).__name__}")
        *pieces, joiner = self._held.stages
        found = [run([piece], inputs, 1) for piece in pieces]
        joined, loss = run([joiner], [outputs for outputs, _ in found], 1)
        for each in (*(loss for _, loss in found), loss):
            if each is not None:
                self.add_loss(each)
        return joined

    def holders(self) -> list[Any]:
        """The layers that hold the weights: the pieces, and the joiner."""
        return [*self._held.pieces, self._held.joiner]

    def unsplit_weights(self) -> Arrays:
        """The weights as `get_weights` of the undivided layer has them."""
        return self.merge([[np.asarray(v) for v in layer.weights] for layer in self.holders()])

    def set_unsplit_weights(self, weights: Arrays) -> None:
        """Take the weights of an undivided layer, as its `get_weights` has them."""
        divided = self.divide([np.asarray(w) for w in weights])
        for layer, own in zip(self.holders(), divided, strict=True):
            for variable, value in zip(layer.weights, own, strict=True):
                variable.assign(value)

    def unsplit(self) -> Any:
        """A new undivided layer with the weights of this one, on one device.

        Raises:
            ValueError: this layer is not built.
        """
        if not self.built:
            raise ValueError(f"{self.name!r} has no weights yet: call it once, or its build().")
        with undrawn():
            layer = type(self._held.whole).from_config(self._held.whole.get_config())
        layer.build(*self._shapes[0], **self._shapes[1])
        layer.set_weights(self.unsplit_weights())
        return layer

    @classmethod
    def from_unsplit(cls, layer: Any, devices: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """A divided layer with the name, configuration and weights of an undivided, built one.

        Args:
            layer: an undivided layer of the class that this one divides.
            devices: a device for each piece; None for all.
            **kwargs: what the divided layer takes besides, such as `split`.
        """
        with undrawn():
            divided = cls.from_config({**layer.get_config(), "devices": devices, **kwargs})
        divided.build_from_config(layer.get_build_config())
        divided.set_unsplit_weights(layer.get_weights())
        return divided

    def save_own_variables(self, store: Any) -> None:
        """Save the weights as the undivided layer does."""
        for i, weight in enumerate(self.unsplit_weights()):
            store[str(i)] = weight

    def load_own_variables(self, store: Any) -> None:
        """Load weights that a layer with any number of devices has saved."""
        self.set_unsplit_weights([np.asarray(store[str(i)]) for i in range(len(store.keys()))])

    def get_config(self) -> dict[str, Any]:
        """The undivided layer's configuration, and the devices."""
        return {**self._held.whole.get_config(), **super().get_config(), "devices": self.devices}

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

    def _placed(self) -> list[tuple[Any, str]]:
        """The holders, with their devices."""
        return list(zip(self.holders(), [*self.devices, self.devices[0]], strict=True))


def ranges_of(count: int, pieces: int) -> list[tuple[int, int]]:
    """Divide `count` units into pieces that differ by one at most."""
    return list(pairwise(count * i // pieces for i in range(pieces + 1)))


def own_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take out what every layer is given, for the divided and the undivided layer alike."""
    names = ("name", "dtype", "trainable", "activity_regularizer")
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def require_way(split: str) -> None:
    """Raise unless `split` is a way to divide a weight.

    Raises:
        ValueError: it is not.
    """
    if split not in ("columns", "rows"):
        raise ValueError(f'split={split!r}: a weight is divided by "columns" or "rows".')


def concatenated(pieces: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """A whole weight of its parts along an axis."""
    return np.concatenate(pieces, axis=axis)


def sliced(weight: np.ndarray, ranges: Sequence[tuple[int, int]], axis: int) -> Arrays:
    """The parts of a weight along an axis."""
    return [np.take(weight, range(start, stop), axis=axis) for start, stop in ranges]


def _require_divisible(whole: Any) -> None:
    sums = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    for name, value in vars(whole).items():
        if name == "activity_regularizer":  # it sees the whole outputs
            continue
        kind = name.rpartition("_")[2]
        if kind == "constraint" and value is not None:
            raise ValueError(
                f"{name.strip('_')} of {whole.name!r} acts on whole weights, which a divided layer "
                "does not have on one device. Leave it out, or use the undivided layer."
            )
        if kind == "regularizer" and value is not None and not isinstance(value, sums):
            raise ValueError(
                f"{name.strip('_')} of {whole.name!r} ({type(value).__name__}) is not a sum over "
                "the weights: a divided layer takes L1, L2 and L1L2."
            )
