"""The state of a Keras model and its optimizers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdkit.callbacks.broadcast import derive_seeds
from hvdkit.descriptions import dtype_and_shape
from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import require_same
from hvdkit.exchange.buckets import variable_key
from hvdkit.state import outside_variables
from hvdkit.state.broadcast import broadcast_variables, can_be_sent
from hvdkit.state.building import build_alike, build_for_fit, start_anew
from hvdkit.state.inventory import is_local, is_seed_state
from hvdkit.state.outside_variables import LayerState
from hvdkit.state.own import own_variables, recurrent_states
from hvdkit.state.reachable import FoundOptimizer, has_variables, optimizers_of


class TensorFlowKerasState(ObjectState):
    """The variables of a Keras model and its optimizers, and values of the training loop.

    Saved and restored are all variables, and what layers keep outside of variables (vocabularies,
    boundaries of bins). Sent to the other ranks are these, too; not the states of seed generators,
    which each rank derives from the sender's and its rank, and not variables that were registered
    as local or are each rank's own (docs/agreement.md).

    Args:
        model: a built Keras model.
        optimizer: its optimizer, or a list, tuple or dictionary of several, if they are neither
            given to `compile` nor attributes of the model.
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
        self._given = optimizer
        self.backend = backend
        if not has_variables(model):
            raise ValueError(
                f"the model {model.name} is not built yet: give it a keras.layers.Input, or call "
                "model.build(input_shape), before its state can be kept."
            )
        found = self._found()
        if not found:
            raise ValueError(
                f"the model {model.name} has no optimizer: compile it first, or give "
                f"{type(self).__name__} the optimizer."
            )
        build_for_fit(model, found)
        if isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built:
            optimizer.build(model.trainable_variables)  # in a loop of one's own
        super().__init__(**kwargs)
        self._saved_layers: list[LayerState] = []
        self._save_variables(costly=True)

    def save(self) -> None:
        """Keep a copy of all variables and values in memory (of the host, not of a GPU)."""
        self._save_variables(costly=False)
        super().save()

    def restore(self) -> None:
        """Put the last copy back."""
        for one in self._found():
            if one.optimizer.built and one.name not in self._saved_built:
                start_anew(one.optimizer)  # it was built after the last copy
        for variable, value in self._saved_variables:
            variable.assign(value)
        if outside_variables.write(self.model, self._saved_layers):
            outside_variables.remake_functions(self.model)
        super().restore()

    def receive(self, root_rank: int) -> None:
        """Take the state of a rank; all ranks call it.

        Args:
            root_rank: the rank that sends.

        Raises:
            RankMismatchError: on every rank, when the ranks have different models.
        """
        super().receive(root_rank)
        build_alike(self.model, self._found(), root_rank)
        optimizers = [one.optimizer for one in self._found()]
        variables = self._variables()
        own = {variable_key(variable) for variable in own_variables(self.model)}
        seeds = [v for v in variables if is_seed_state(v)]
        sent = [
            v
            for v in variables
            if not is_seed_state(v) and variable_key(v) not in own and not is_local(optimizers, v)
        ]
        sent = [v for v in sent if can_be_sent(v)]
        require_same(
            "the variables of model and optimizer",
            [dtype_and_shape(v.dtype, v.shape) for v in sent],
        )
        broadcast_variables(sent, root_rank)
        if outside_variables.send(self.model, root_rank):
            outside_variables.remake_functions(self.model)
        self._save_variables(costly=True)
        derive_seeds(seeds, root_rank)

    def reset(self) -> None:
        """Forget compiled steps: the number of ranks is a constant in them."""
        self.model.train_function = None
        self.model.test_function = None
        self.model.predict_function = None

    def _found(self) -> list[FoundOptimizer]:
        return optimizers_of(self.model, self._given)

    def _variables(self) -> list[Any]:
        """All variables, each once."""
        found = list(self.model.variables)
        for one in self._found():
            found += one.optimizer.variables
        return list({variable_key(variable): variable for variable in found}.values())

    def _save_variables(self, *, costly: bool) -> None:
        self._saved_variables = self._copies()
        self._saved_built = {one.name for one in self._found() if one.optimizer.built}
        layers = outside_variables.read(self.model, costly=costly)
        if not costly:  # files of `save_assets` don't change while a model is trained
            pairs = zip(self._saved_layers, layers, strict=True)
            layers = [{**(old or {}), **(new or {})} or None for old, new in pairs]
        self._saved_layers = layers

    def _copies(self) -> list[tuple[Any, tf.Tensor]]:
        # On a CPU this copies nothing: the next update of a variable then makes a new buffer.
        variables = [*self._variables(), *recurrent_states(self.model)]
        with tf.device("CPU:0"):
            return [(v, tf.identity(_raw(v))) for v in variables]


class KerasState(TensorFlowKerasState):
    """The variables of a Keras model and its optimizers, and values of the training loop.

    Saved and restored are all variables, and what layers keep outside of variables (vocabularies,
    boundaries of bins). Sent to the other ranks are these, too; not the states of seed generators,
    which each rank derives from the sender's and its rank, and not variables that were registered
    as local or are each rank's own (docs/agreement.md).

    Args:
        model: a built Keras model.
        optimizer: its optimizer, or a list, tuple or dictionary of several, if they are neither
            given to `compile` nor attributes of the model.
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
