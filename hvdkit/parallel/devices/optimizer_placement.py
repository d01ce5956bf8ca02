"""Optimizers keep slots, and update variables, on the device of the variable.

Keras builds an optimizer's slots in a graph, where they land on the first device, and so do the
operations that clip, decay, average and update, as well as one that all gradients pass through.
The patches here, made when the first variable gets a device, act on variables of split layers only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf
from keras import optimizers

from hvdkit import patches
from hvdkit.keras_internals import STATELESS_SCOPE, replaced_global_attribute
from hvdkit.parallel.devices.local_devices import short_name
from hvdkit.patches import Patch

# AutoGraph rewrites what a user's tf.function calls, and fails on super().
do_not_convert = tf.autograph.experimental.do_not_convert

_ATTRIBUTE = "_hvdkit_device"
_SLOT_OF = "_hvdkit_slot_of"
# They run a graph of their own, whose operations have their own devices.
_CALLS = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase"}
_CALLS |= {"PartitionedCall", "StatefulPartitionedCall"}


def move_to(device: str, variable: Any) -> None:
    """Let a `keras.Variable` lie on a device, and be updated there."""
    patches.install(*PATCHES)
    if short_name(tf_variable(variable).device) != device:
        value = tf_variable(variable).numpy()
        with tf.init_scope(), tf.device(device):
            variable._initialize(value)
    setattr(variable, _ATTRIBUTE, device)


@contextlib.contextmanager
def real_variables() -> Iterator[None]:
    """Make variables at once and here, also while Keras only tries out a model that has these.

    Keras would make them when it has done that, on the first device.
    """
    with replaced_global_attribute(STATELESS_SCOPE, None):
        yield


def tf_variable(variable: Any) -> tf.Variable:
    """The TensorFlow variable of a Keras one, whose `value` is a copy in mixed precision."""
    return variable._value


def device_of(variable: Any) -> str | None:
    """The device that a variable of a split layer is on; None for other variables."""
    return getattr(variable, _ATTRIBUTE, None)


def slot_of(variable: Any) -> Any:
    """The variable of a split layer that an optimizer's variable is a slot of; None for others."""
    return getattr(variable, _SLOT_OF, None)


def add_slot(
    original: Callable[..., Any], optimizer: Any, reference_variable: Any, *args: Any, **kwargs: Any
) -> Any:
    """Make an optimizer's slot on the device of its variable."""
    device = device_of(reference_variable)
    if device is None:
        return original(optimizer, reference_variable, *args, **kwargs)
    with tf.init_scope(), tf.device(device):
        slot = original(optimizer, reference_variable, *args, **kwargs)
    setattr(slot, _SLOT_OF, reference_variable)
    return slot


def build(original: Callable[..., Any], optimizer: Any, variables: Iterable[Any]) -> Any:
    """Let an optimizer that does not say which variable a slot is for make it in its place."""
    variables = list(variables)
    if any(device_of(v) for v in variables):
        with tf.init_scope():
            return original(optimizer, _EachOnItsDevice(variables))
    return original(optimizer, variables)


def apply(
    original: Callable[..., Any], optimizer: Any, grads: Any, trainable_variables: Any = None
) -> Any:
    """Apply gradients where they and their variables are."""
    given = None if trainable_variables is None else list(trainable_variables)
    variables = optimizer._trainable_variables if given is None else given
    if tf.executing_eagerly() or not any(device_of(v) for v in variables):
        return original(optimizer, grads, given)
    with tf.compat.v1.device(_device_of_inputs):
        return original(optimizer, grads, given)


def all_reduce_sum_gradients(
    original: Callable[..., Any], optimizer: Any, grads_and_vars: Any
) -> Any:
    """Without replicas this is the identity; Keras's passes all gradients through one operation."""
    if any(device_of(v) for v in optimizer._trainable_variables):
        return list(grads_and_vars)
    return original(optimizer, grads_and_vars)


_UPDATES = "variables of split layers are updated on their devices"
_SLOTS = "slots of variables of split layers lie on their devices"

PATCHES = (
    Patch(optimizers.Optimizer, "apply", apply, _UPDATES),
    Patch(optimizers.LossScaleOptimizer, "apply", apply, _UPDATES),
    Patch(
        optimizers.Optimizer,
        "_all_reduce_sum_gradients",
        all_reduce_sum_gradients,
        "gradients of split layers do not all go through one device",
    ),
    Patch(optimizers.Optimizer, "add_variable_from_reference", add_slot, _SLOTS),
    Patch(optimizers.Adafactor, "build", build, _SLOTS),
)


class _EachOnItsDevice(list[Any]):
    """Variables; what is made while one of them is visited is made on its device."""

    def __iter__(self) -> Iterator[Any]:
        for variable in super().__iter__():
            with tf.device(device_of(variable)):
                yield variable


def _device_of_inputs(op: Any) -> str:
    """The device of a new operation: where its resource or its largest input is.

    Numbers and vectors of one element do not decide: they are moved easily.
    """
    if op.device or op.type in _CALLS:
        return str(op.device)
    placed = [(_weight(tensor), _device(tensor)) for tensor in op.inputs]
    placed = [(weight, device) for weight, device in placed if device and weight > 1]
    return max(placed, key=lambda p: p[0])[1] if placed else ""


def _weight(tensor: Any) -> float:
    if tensor.dtype == tf.resource:
        return float("inf")
    elements = tensor.shape.num_elements()
    return float("1e30") if elements is None else float(elements)


def _device(tensor: Any) -> str:
    """Where a tensor of a graph is, through what reads a variable or comes from outside."""
    if tensor.device:
        return str(tensor.device)
    if tensor.op.type in ("ReadVariableOp", "Identity"):
        return _device(tensor.op.inputs[0])
    for external, internal in getattr(tensor.graph, "captures", ()):
        if internal is tensor:
            return _device(external) if hasattr(external, "op") else str(external.device)
    return ""
