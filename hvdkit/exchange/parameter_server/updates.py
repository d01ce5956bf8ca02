"""What a server does with gradients: an update of its own variables by the training's optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.exchange.parameter_server.messages import Push


class _RateOfStep(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate that a worker has sent with its gradients."""

    def __init__(self) -> None:
        self.rate = tf.Variable(0.0, trainable=False)

    def __call__(self, step: Any) -> tf.Tensor:
        return self.rate.read_value()

    def get_config(self) -> dict[str, Any]:
        return {}


class Updates:
    """A server's optimizer, which updates the server's variables.

    Workers have summed up their micro-steps, and have scaled their losses back, before they send
    gradients; and a worker says the learning rate. So the optimizer does neither here.

    Args:
        optimizer: of the training, which updates variables itself; it is built.
        variables: the server's.

    Attributes:
        count: how many updates there were, over all trainings.
    """

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        self._optimizer = optimizer
        self._variables = list(variables)
        self._rate = _RateOfStep()
        self._functions: dict[tuple[bool, ...], Callable[..., Any]] = {}
        self.count: int | None = None

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While inside, the optimizer is the server's; after it, it is as it was made."""
        own = vars(self._optimizer)
        for_server = {
            "_learning_rate": self._rate,
            "gradient_accumulation_steps": None,
            "loss_scale_factor": None,
        }
        before = {name: own[name] for name in for_server}
        own.update(for_server)
        iterations = self._optimizer._iterations
        if self.count is not None:  # a broadcast at the start may have sent a worker's
            iterations.assign(self.count)
        elif before["gradient_accumulation_steps"]:
            iterations.assign(iterations.value // before["gradient_accumulation_steps"])
        try:
            yield
        finally:
            self.count = int(iterations.numpy())
            own.update(before)

    def apply(self, pushes: Sequence[Push]) -> None:
        """Update the variables with the mean of some gradients.

        Args:
            pushes: of one worker, or one step of all.
        """
        gradients = [_mean(each) for each in zip(*(p.gradients for p in pushes), strict=True)]
        there = tuple(gradient is not None for gradient in gradients)
        if not any(there):
            return
        self._rate.rate.assign(pushes[0].rate)
        if there not in self._functions:
            self._functions[there] = self._function(there)
        self._functions[there](*(tf.constant(g) for g in gradients if g is not None))
        self._optimizer.react_to_nonfinite()

    def values(self) -> list[np.ndarray]:
        """The variables' values."""
        return [variable.value.numpy() for variable in self._variables]

    def _function(self, there: Sequence[bool]) -> Callable[..., Any]:
        variables = [v for v, one in zip(self._variables, there, strict=True) if one]
        optimizer = self._optimizer

        @tf.function(autograph=False)
        def update(*gradients: tf.Tensor) -> None:
            optimizer.apply(list(gradients), variables)

        function: Callable[..., Any] = update
        return function


def _mean(gradients: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """The mean over workers of a variable's gradients, where any has one."""
    there = [gradient for gradient in gradients if gradient is not None]
    if not there:
        return None
    if len(gradients) == 1:
        return there[0]
    total: np.ndarray = np.sum(there, axis=0, dtype=np.result_type(there[0].dtype, np.float32))
    mean: np.ndarray = (total / len(gradients)).astype(there[0].dtype)
    return mean
