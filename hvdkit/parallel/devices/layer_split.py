"""Consecutive parts of a model, each on a device of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit import patches
from hvdkit.engine import logger
from hvdkit.parallel.devices.local_devices import (
    existing_devices,
    local_devices,
    refuse_strategy,
    spread,
)
from hvdkit.parallel.devices.optimizer_placement import do_not_convert, real_variables
from hvdkit.parallel.devices.placed_part import PlacedPart, placed
from hvdkit.parallel.devices.staged_execution import run


@keras.saving.register_keras_serializable("hvdkit")
class LayerSplit(keras.layers.Layer):
    """Layers or models that run one after the other, each on its own device of this process.

    The weights, operations, gradients and optimizer slots of a part are on its device; between
    devices go only activations and their gradients. The losses and weights are those of the same
    layers on one device. A weight that several parts use (tied embeddings) lies on the device of
    the first of them, the others read it there, and their gradients are summed.

    With several micro-batches the rows of a batch go through the parts one after the other, so
    that the devices work at the same time on different ones (GPipe, Huang et al., 2019,
    https://arxiv.org/abs/1811.06965). The loss is taken of the whole batch and their
    gradients are summed, so this too trains as one device does, with these exceptions, as from the
    layers' point of view each micro-batch is a batch:

    - `BatchNormalization` normalizes with the mean and variance of the micro-batch, and moves its
      statistics once for each;
    - `Dropout` and other random layers draw for each micro-batch;
    - what layers add to the loss themselves (`add_loss`, `activity_regularizer`) counts as a mean
      over the rows, and is averaged over the micro-batches.

    Args:
        parts: layers or models. The outputs of one are the inputs of the next; a list of tensors
            is given as a list.
        devices: for each part its device, such as "GPU:0" or "CPU:1"; or fewer devices, which
            then hold several consecutive parts. None for all of this process's GPUs, or logical
            CPU devices if it has none.
        micro_batches: how many micro-batches the rows of a batch are divided into. If it does not
            divide the batch size, `fit` refuses; a last, short batch is divided unevenly.
        **kwargs: as for every `keras.layers.Layer`.

    Call arguments:
        inputs: what the first part takes; each tensor of shape (rows, ...).
        training: whether in training mode.

    Raises:
        ValueError: a device does not exist; a part is not a layer; the scope of a `tf.distribute`
            strategy.

    Example:
        >>> x = keras.Input((64,))
        >>> y = hvd.parallel.LayerSplit(
        ...     [keras.layers.Dense(256, "relu"), keras.layers.Dense(10)],
        ...     devices=["GPU:0", "GPU:1"],
        ...     micro_batches=4,
        ... )(x)
        >>> model = keras.Model(x, y)
    """

    places_itself = True

    def __init__(
        self,
        parts: Sequence[keras.layers.Layer],
        devices: Sequence[str] | None = None,
        micro_batches: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        refuse_strategy("hvd.parallel.LayerSplit")
        patches.need(patches.FIT)  # which refuses batches that the micro-batches do not divide
        self.parts = _checked_parts(parts)
        self.devices = spread(len(self.parts), existing_devices(devices))
        self.micro_batches = _checked_micro_batches(micro_batches)
        # XLA compiles for one device.
        self.supports_jit = False
        # Masks go through the parts and come out with the last one's outputs.
        self.supports_masking = True
        self._placed: list[PlacedPart] = []
        if all(part.built for part in self.parts):
            self._place_variables()

    @property
    def has_penalties(self) -> bool:
        """Whether weights have regularizers, whose losses the parts make."""
        return any(part.penalties for part in self._placed)

    @property
    def shares_weights(self) -> bool:
        """Whether weights are used by several parts."""
        counts = Counter(id(variable) for part in self.parts for variable in part.variables)
        return any(count > 1 for count in counts.values())

    def build(self, input_shape: Any) -> None:
        """Nothing: the parts are built with the first inputs, whose dtypes they may need."""

    @do_not_convert
    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the parts on their devices."""
        refuse_strategy("hvd.parallel.LayerSplit")
        self._build_parts(inputs)
        outputs, loss = run(self._placed, inputs, self.micro_batches)
        if loss is not None:
            self.add_loss(loss)
        return outputs

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """The shapes and dtypes of the last part's outputs."""
        self._build_parts(inputs)
        for part in self.parts:
            inputs = part.compute_output_spec(inputs)
        return inputs

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """None: the outputs already have their masks."""
        return None

    def get_config(self) -> dict[str, Any]:
        """The parts with their configurations, the devices, and the number of micro-batches.

        Raises:
            ValueError: parts share weights, which their configurations do not tell.
        """
        if self.shares_weights:
            raise ValueError(
                f"{self.name!r} can't be written into a file with its layers: its parts share "
                "weights, and made again they would not. Use save_weights and load_weights, or "
                "hvd.parallel.split, whose models are then saved as the unsplit model."
            )
        return {
            **super().get_config(),
            "parts": [keras.saving.serialize_keras_object(part) for part in self.parts],
            "devices": self.devices,
            "micro_batches": self.micro_batches,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LayerSplit:
        """Make the layer again; on a machine without its devices, on those that there are."""
        config = dict(config)
        devices = _devices_here(config["devices"], config["name"])
        parts = []
        for part, device in zip(config.pop("parts"), devices, strict=True):
            with tf.device(device):
                parts.append(keras.saving.deserialize_keras_object(part))
        return cls(parts, **{**config, "devices": devices})

    def _build_parts(self, inputs: Any) -> None:
        """Make the parts' weights on their devices."""
        if self._placed:
            return
        tensors = keras.tree.map_structure(_spec, inputs)
        with tf.init_scope(), real_variables():
            for part, device in zip(self.parts, self.devices, strict=True):
                with tf.device(device):
                    if not part.built:
                        part(tensors)
                    tensors = part.compute_output_spec(tensors)
        self._place_variables()

    def _place_variables(self) -> None:
        """Put each part's variables on its device; what several parts use, on that of the first."""
        before: list[Any] = []
        for part, device in zip(self.parts, self.devices, strict=True):
            self._placed.append(placed(part, device, before))
            before += part.variables


def _checked_parts(parts: Any) -> list[keras.layers.Layer]:
    if not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError(f"parts={parts!r} of LayerSplit: give a list of layers or models.")
    for part in parts:
        if not isinstance(part, keras.layers.Layer):
            raise ValueError(
                f"{part!r} is no part for LayerSplit: each part is a keras.layers.Layer or model; "
                "wrap a function in keras.layers.Lambda."
            )
    return list(parts)


def _checked_micro_batches(count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"micro_batches={count!r}: the number of micro-batches is an integer above 0."
        )
    return count


def _spec(tensor: Any) -> Any:
    if tensor is None or isinstance(tensor, keras.KerasTensor):
        return tensor
    return keras.KerasTensor(tensor.shape, dtype=keras.backend.standardize_dtype(tensor.dtype))


def _devices_here(saved: Sequence[str], name: str) -> list[str]:
    """The devices of a saved layer; others if this process does not have all of them."""
    try:
        return existing_devices(saved)
    except ValueError:
        devices = spread(len(saved), local_devices())
        logger.info("hvdkit: the parts of %s, saved on %s, are on %s.", name, saved, devices)
        return devices
