"""A Dense layer whose kernel is sharded over devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from hvdkit.parallel.devices.joiner import Joiner
from hvdkit.parallel.devices.optimizer_placement import do_not_convert
from hvdkit.parallel.devices.sharded_layer import (
    Arrays,
    DeviceShardedLayer,
    concatenated,
    own_arguments,
    require_way,
    sliced,
)


@keras.saving.register_keras_serializable("hvdkit")
class SplitDense(DeviceShardedLayer):
    """`keras.layers.Dense` whose kernel is sharded over the devices of this process.

    By columns, each device computes some of the outputs, which are concatenated; by rows, each
    multiplies some of the inputs, and the products are summed (Shoeybi et al., 2019,
    https://arxiv.org/abs/1909.08053, section 3). The result is that of the unsharded layer, and so
    are the first weights for the same seed. The bias and activation of a layer sharded by rows are
    on the first device.

    Args:
        units: size of the outputs.
        devices: names such as "GPU:0", a shard for each; None for all of this process's GPUs, or
            logical CPU devices if it has none.
        split: "columns" or "rows".
        **kwargs: as for `keras.layers.Dense`, without constraints.

    Call arguments:
        inputs: a tensor of the shape (..., features).

    Raises:
        ValueError: a device does not exist, or there are more than units (by rows, features);
            another `split`; a constraint, or a regularizer other than L1, L2 and L1L2.

    Example:
        >>> layer = hvd.parallel.SplitDense(4096, ["GPU:0", "GPU:1"], activation="relu")
        >>> unsharded = layer.unsplit()  # once it is built
    """

    def __init__(
        self,
        units: int,
        devices: Sequence[str] | None = None,
        split: str = "columns",
        **kwargs: Any,
    ) -> None:
        require_way(split)
        own = own_arguments(kwargs)
        unsharded = keras.layers.Dense(units, **kwargs, **own)
        super().__init__(unsharded, devices, units if split == "columns" else None, **own)
        self.split = split

    def build(self, input_shape: Any) -> None:
        """Make the weights on their devices."""
        if self.split == "rows":
            self.shard_over(int(input_shape[-1]), "features")
        self.build_shards(input_shape)

    @do_not_convert
    def call(self, inputs: Any) -> Any:
        """Multiply on all devices."""
        return self.run_shards(inputs)

    def make_shards(self, unsharded: Any) -> tuple[list[Any], Any]:
        """Dense layers of fewer outputs or inputs."""
        common = {
            "kernel_initializer": "zeros",
            "kernel_regularizer": unsharded.kernel_regularizer,
            "dtype": unsharded.dtype_policy,
        }
        if self.split == "columns":
            bias = {"use_bias": unsharded.use_bias, "bias_regularizer": unsharded.bias_regularizer}
            shards = [keras.layers.Dense(b - a, **bias, **common) for a, b in self.ranges]
            return shards, Joiner(False, unsharded.activation, dtype=unsharded.dtype_policy)
        shards = [
            DenseOfSomeInputs(features, unsharded.units, **common) for features in self.ranges
        ]
        shape = (unsharded.units,) if unsharded.use_bias else None
        return shards, Joiner(
            True,
            unsharded.activation,
            shape,
            unsharded.bias_regularizer,
            dtype=unsharded.dtype_policy,
        )

    def shard(self, weights: Arrays) -> list[Arrays]:
        """Slices of the kernel, and of the bias by columns."""
        if self.split == "columns":
            slices = [sliced(weight, self.ranges, -1) for weight in weights]
            return [*map(list, zip(*slices, strict=True)), []]
        kernel, *bias = weights
        return [*([shard] for shard in sliced(kernel, self.ranges, 0)), bias]

    def merge(self, weights: list[Arrays]) -> Arrays:
        """The unsharded kernel and bias."""
        *shards, own = weights
        axis = -1 if self.split == "columns" else 0
        return [concatenated(column, axis) for column in zip(*shards, strict=True)] + own

    def get_config(self) -> dict[str, Any]:
        """The unsharded layer's configuration, the devices, and how it is sharded."""
        return {**super().get_config(), "split": self.split}


class DenseOfSomeInputs(keras.layers.Dense):
    """A Dense layer without bias that takes a range of the features it is given."""

    def __init__(self, features: tuple[int, int], units: int, **kwargs: Any) -> None:
        super().__init__(units, use_bias=False, **kwargs)
        self._features = features

    def build(self, input_shape: Any) -> None:
        """Make the kernel for its features."""
        start, stop = self._features
        super().build((*input_shape[:-1], stop - start))
        self.input_spec = None

    def call(self, inputs: Any) -> Any:
        """Multiply its features."""
        start, stop = self._features
        return super().call(inputs[..., start:stop])
