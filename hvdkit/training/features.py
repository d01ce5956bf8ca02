"""What `fit`, `evaluate` and `predict` gain: a list of features around one call of Keras's method.

A feature does one thing. It is made for each call, so it can keep what it needs between its two
parts; what it changes of the call, the next ones and Keras see.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import keras

_in_call: ContextVar[bool] = ContextVar("_in_call", default=False)


@dataclass
class Call:
    """One call of `fit`, `evaluate` or `predict`.

    Attributes:
        model: whose method is called.
        method: its name.
        arguments: all of its arguments by name, with the defaults of those that were left out.
        instead: what is called in the place of Keras's method, without arguments; None for that.
        result: what it returns, once it has.
    """

    model: Any
    method: str
    arguments: dict[str, Any]
    instead: Callable[[], Any] | None = None
    result: Any = None

    @property
    def trains(self) -> bool:
        """Whether it is a `fit`."""
        return self.method == "fit"

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks, which may be given as a list, one, None or a `CallbackList`."""
        callbacks = self.arguments["callbacks"]
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return list(callbacks.callbacks)
        return list(keras.tree.flatten(callbacks or []))

    @callbacks.setter
    def callbacks(self, callbacks: list[Any]) -> None:
        if isinstance(self.arguments["callbacks"], keras.callbacks.CallbackList):
            self.arguments["callbacks"].callbacks = callbacks
        else:
            self.arguments["callbacks"] = callbacks

    def add_callback(self, callback: Any, *, first: bool = False) -> None:
        """Put a callback after the others, or before them."""
        self.callbacks = [callback, *self.callbacks] if first else [*self.callbacks, callback]


class Feature(Protocol):
    """What is done before and around a call; a feature leaves out what it does not need."""

    def before(self, call: Call) -> None:
        """Look at the call, and change it; what is wrong with it is raised here."""

    def around(self, call: Call) -> AbstractContextManager[None]:
        """What Keras's method runs in; after it, the result is in `call`."""
        return contextlib.nullcontext()


def with_features(
    features: Sequence[Callable[[], Feature]],
    original: Callable[..., Any],
    model: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a method of Keras's with features.

    Args:
        features: make the features, in their order: the first one is the outermost.
        original: the method.
        model: the model.
        *args: the method's.
        **kwargs: the method's.

    Returns:
        Its result, as the features leave it.
    """
    call = Call(model, original.__name__, _by_name(original, model, args, kwargs))
    made = [feature() for feature in features]
    for feature in made:
        feature.before(call)
    with contextlib.ExitStack() as stack:
        stack.callback(_in_call.reset, _in_call.set(True))
        for feature in made:
            stack.enter_context(feature.around(call))
        if call.instead is not None:
            call.result = call.instead()
        else:
            call.result = original(model, **call.arguments)
    return call.result


def in_call() -> bool:
    """Whether Keras reads data for a method that has features."""
    return _in_call.get()


def _by_name(original: Callable[..., Any], model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(original).bind(model, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    arguments.pop("self")
    arguments.update(arguments.pop("kwargs", {}))
    return arguments
