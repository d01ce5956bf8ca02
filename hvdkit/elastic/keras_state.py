"""The state of a Keras model and its optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.agreement.variables import is_seed_state
from hvdkit.callbacks.broadcast import derive_seeds
from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import require_same
from hvdkit.optimizers.mixins import Distributed, leaves
from hvdkit.reduction.buckets import variable_key
from hvdkit.variables import broadcast_variables, can_be_sent


class TensorFlowKerasState(ObjectState):
    """The variables of a Keras model and its optimizer, and values of the training loop.

    Saved and restored are all variables. Sent to the other ranks are those of model and
    optimizer; not the states of seed generators, which each rank derives from the sender's and
    its rank, and not variables that were registered as local.

    Args:
        model: a built Keras model.
        optimizer: its optimizer, if it was not given to `compile`.
        backend: ignored; kept for scripts written for TensorFlow 1.
        **kwargs: names and first values of other things to keep, such as `epoch=0`; they become
            attributes.

    Raises:
        ValueError: the model is not built, or there is no optimizer.
    """

    def __init__(
        self, model: Any, optimizer: Any = None, backend: Any = None, **kwargs: Any
    ) -> None:
        self.model = model
        self.optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        self.backend = backend
        if not all(layer.built for layer in model._flatten_layers()):
            raise ValueError(
                f"the model {model.name} is not built yet: give it a keras.layers.Input, or call "
                "model.build(input_shape), before its state can be kept."
            )
        if self.optimizer is None:
            raise ValueError(
                f"the model {model.name} has no optimizer: compile it first, or give "
                f"{type(self).__name__} the optimizer."
            )
        super().__init__(**kwargs)
        self._saved_variables = self._copies()

    def save(self) -> None:
        """Keep a copy of all variables and values in memory (of the host, not of a GPU)."""
        self._saved_variables = self._copies()
        super().save()

    def restore(self) -> None:
        """Put the last copy back."""
        for variable, value in self._saved_variables:
            variable.assign(value)
        super().restore()

    def receive(self, root_rank: int) -> None:
        """Take the state of a rank; all ranks call it.

        Args:
            root_rank: the rank that sends.

        Raises:
            RankMismatchError: on every rank, when the ranks have different models.
        """
        super().receive(root_rank)
        variables = self._variables()
        seeds = [v for v in variables if is_seed_state(v)]
        sent = [v for v in variables if not is_seed_state(v) and not self._is_local(v)]
        sent = [v for v in sent if can_be_sent(v)]
        require_same(
            "the variables of model and optimizer",
            [f"{v.dtype} {'x'.join(map(str, v.shape)) or 'scalar'}" for v in sent],
        )
        broadcast_variables(sent, root_rank)
        derive_seeds(seeds, root_rank)

    def reset(self) -> None:
        """Forget compiled steps: the number of ranks is a constant in them."""
        self.model.train_function = None
        self.model.test_function = None
        self.model.predict_function = None

    def _optimizers(self) -> Iterator[Any]:
        # compile wraps the optimizer in a LossScaleOptimizer under mixed_float16.
        yield self.optimizer
        compiled = getattr(self.model, "optimizer", None)
        if compiled is not None and compiled is not self.optimizer:
            yield compiled

    def _variables(self) -> list[Any]:
        """All variables, each once; the optimizer is built first, so that it has them all."""
        found = list(self.model.variables)
        for optimizer in self._optimizers():
            if not optimizer.built:
                optimizer.build(self.model.trainable_variables)
            found += optimizer.variables
        return list({variable_key(variable): variable for variable in found}.values())

    def _copies(self) -> list[tuple[Any, tf.Tensor]]:
        # On a CPU this copies nothing: the next update of a variable then makes a new buffer.
        with tf.device("CPU:0"):
            return [(v, tf.identity(_raw(v))) for v in self._variables()]

    def _is_local(self, variable: Any) -> bool:
        return any(
            leaf.is_local_var(variable)
            for optimizer in self._optimizers()
            for leaf in leaves(optimizer)
            if isinstance(leaf, Distributed)
        )


class KerasState(TensorFlowKerasState):
    """The variables of a Keras model and its optimizer, and values of the training loop.

    Saved and restored are all variables. Sent to the other ranks are those of model and
    optimizer; not the states of seed generators, which each rank derives from the sender's and
    its rank, and not variables that were registered as local.

    Args:
        model: a built Keras model.
        optimizer: its optimizer, if it was not given to `compile`.
        **kwargs: names and first values of other things to keep, such as `epoch=0`; they become
            attributes.

    Raises:
        ValueError: the model is not built, or there is no optimizer.

    Example:
        >>> state = hvd.elastic.KerasState(model, batch=0, epoch=0)
        >>> train(state)  # a function that is decorated with hvd.elastic.run
    """

    def __init__(self, model: Any, optimizer: Any = None, **kwargs: Any) -> None:
        super().__init__(model, optimizer, **kwargs)


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
