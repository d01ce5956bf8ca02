"""Positional arguments in the order of `horovod.tensorflow`, where its Keras module has another.

Both modules become this one, so `allreduce(x, False)` (the second argument is `average`) and
`allreduce(x, "name")` are the same function's. The types of the arguments decide.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not _is_flag(value)


_FITS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: value is None or _is_text(value),
    "average": lambda value: value is None or _is_flag(value),
    "op": lambda value: value is None or (_is_number(value) and int(value) == value),
    "device_dense": _is_text,
    "device_sparse": _is_text,
    "compression": lambda value: hasattr(value, "compress"),
    "prescale_factor": _is_number,
    "postscale_factor": _is_number,
    "gradient_predivide_factor": _is_number,
    "backward_passes_per_step": _is_number,
    "num_groups": _is_number,
    "use_locking": _is_flag,
    "sparse_as_dense": _is_flag,
    "average_aggregated_gradients": _is_flag,
    "ignore_name_scope": _is_flag,
    "scale_local_gradients": _is_flag,
    "process_set": lambda value: hasattr(value, "process_set_id"),
}
"""What a positional argument of that name can be; of other names, anything."""

_IGNORED = frozenset({"use_locking"})
"""Arguments of TensorFlow 1's optimizers, which nothing depends on."""


def in_either_order(of_tensorflow: Sequence[str]) -> Callable[[Function], Function]:
    """Let a function take its arguments in a second order as well.

    Args:
        of_tensorflow: the names of the arguments after the first, in the order of
            `horovod.tensorflow`. The function's own order is that of `horovod.tensorflow.keras`.
    """

    def decorate(function: Function) -> Function:
        own = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ][1:]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            first, given = args[:1], args[1:]
            if not _fit(own, given) and _fit(of_tensorflow, given):
                named = dict(zip(of_tensorflow, given, strict=False))
                if twice := sorted(named.keys() & kwargs.keys()):
                    raise TypeError(f"{function.__name__}() got {twice[0]} twice.")
                args, kwargs = first, {**named, **kwargs}
            plain = {name: value for name, value in kwargs.items() if name not in _IGNORED}
            return function(*args, **plain)

        return cast(Function, wrapper)

    return decorate


def _fit(names: Sequence[str], values: Sequence[Any]) -> bool:
    return len(values) <= len(names) and all(
        _FITS.get(name, lambda _: True)(value) for name, value in zip(names, values, strict=False)
    )
