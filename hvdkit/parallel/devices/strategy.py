"""One script for one process, several local devices, and several ranks."""

from __future__ import annotations

import functools

import tensorflow as tf

from hvdkit.engine import require_initialized, topology
from hvdkit.parallel.devices.local_devices import local_devices

NAMES = ("auto", "ranks", "mirrored", "single")


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The `tf.distribute` strategy to build the model in.

    Args:
        name: "ranks" for one device in each of several processes, which hvdkit synchronises;
            "mirrored" for all local devices of a process (`tf.distribute.MirroredStrategy`), in one
            process or in each of several ranks, such as one for each host; "single" for one process
            with one device; "auto" for the one that fits: "ranks" in a job of several ranks,
            "mirrored" in one process that sees several GPUs (or several logical CPUs), "single"
            otherwise.

    Returns:
        A strategy whose `scope()` the model is built and compiled in. For "ranks" and "single"
        it is TensorFlow's default strategy, which does nothing.

    `hvd.init()` gives each of several ranks one GPU: those that are to use several call
    `hvd.init(pin_gpu=False)`, and where a host has several ranks, share its GPUs among them with
    `tf.config.set_visible_devices`.

    Raises:
        ValueError: an unknown name, or "mirrored" in a job of several ranks of which this one has
            one device only.

    Example:
        >>> with hvd.strategy().scope():
        ...     model = build_model()
        ...     model.compile(optimizer=hvd.DistributedOptimizer("adam"), loss="mse")
    """
    require_initialized("hvd.strategy()")
    if name not in NAMES:
        raise ValueError(f"a strategy is one of {', '.join(NAMES)}, not {name!r}.")
    devices = local_devices()
    if name == "auto":
        several = topology.size() == 1 and len(devices) > 1
        name = "mirrored" if several else "ranks"
    if name != "mirrored":
        return tf.distribute.get_strategy()
    if topology.size() > 1 and len(devices) == 1:
        raise ValueError(
            f'strategy("mirrored") is for ranks with several devices, and rank {topology.rank()} '
            f"has {devices[0]} only: leave the name out; or let each rank have several, with "
            "hvd.init(pin_gpu=False)."
        )
    return _mirrored(tuple(devices))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One for a process: TensorFlow takes sums of a second one for those of the first."""
    return tf.distribute.MirroredStrategy(list(devices))
