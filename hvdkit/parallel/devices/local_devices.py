"""The local devices of a process: GPU:0, GPU:1, ..., or the logical devices of its CPU."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def local_devices() -> list[str]:
    """Names of this process's GPUs, or of its CPU's logical devices where it has no GPU."""
    names = _all_devices()
    return [n for n in names if n.startswith("GPU:")] or [n for n in names if n.startswith("CPU:")]


def existing_devices(devices: Sequence[str] | None) -> list[str]:
    """The devices that a user has named, as "GPU:0"; all of `local_devices` if none.

    Raises:
        ValueError: this process has no such device, or the list is empty.
    """
    if devices is None:
        return local_devices()
    if isinstance(devices, str) or not devices:
        raise ValueError(
            f'devices={devices!r}: give a list of devices, such as ["GPU:0", "GPU:1"].'
        )
    names = [short_name(device) for device in devices]
    existing = _all_devices()
    if missing := [name for name in names if name not in existing]:
        raise ValueError(
            f"device {missing[0]!r} does not exist in this process; these do: "
            f"{', '.join(existing)}. (hvd.init() gives each of several ranks one GPU; with "
            "pin_gpu=False it leaves that to tf.config.set_visible_devices.)"
        )
    return names


def spread(count: int, devices: Sequence[str]) -> list[str]:
    """The device of each of `count` parts: consecutive ones share one if there are fewer devices.

    Example:
        >>> spread(4, ["GPU:0", "GPU:1"])
        ['GPU:0', 'GPU:0', 'GPU:1', 'GPU:1']
    """
    used = devices[:count]
    return [used[i * len(used) // count] for i in range(count)]


def refuse_strategy(what: str) -> None:
    """Raise inside the scope of a `tf.distribute` strategy, which places variables itself.

    Raises:
        ValueError: always, inside such a scope.
    """
    if tf.distribute.has_strategy():
        strategy = type(tf.distribute.get_strategy()).__name__
        raise ValueError(
            f"{what} can't be used in the scope of tf.distribute.{strategy}: the strategy copies "
            "every variable to all devices, and a split model keeps each on one. Make the model "
            "outside the scope; for several copies of it start one rank for each group of devices "
            "(horovodrun, mpirun) and use hvd.DistributedOptimizer."
        )


def short_name(device: str) -> str:
    """A device's name without its job: "GPU:0" for "/job:localhost/.../device:GPU:0"."""
    return str(device).rsplit("/", 1)[-1].upper().removeprefix("DEVICE:")


def _all_devices() -> list[str]:
    return [short_name(device.name) for device in tf.config.list_logical_devices()]
