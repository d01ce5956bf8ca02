"""The state of a Keras model and its optimizers."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.elastic.copies import Copies
from hvdkit.elastic.object_state import ObjectState
from hvdkit.state import outside_variables
from hvdkit.state.building import build_for_fit, start_anew
from hvdkit.state.inventory import inventory_of
from hvdkit.state.outside_variables import LayerState
from hvdkit.state.reachable import FoundOptimizer, has_variables, optimizers_of
from hvdkit.state.sending import send_training


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
        self._copies.put_back()
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
        send_training(self.model, root_rank, self._given)
        self._save_variables(costly=True)

    def reset(self) -> None:
        """Forget compiled steps: the number of ranks is a constant in them."""
        self.model.train_function = None
        self.model.test_function = None
        self.model.predict_function = None

    def _found(self) -> list[FoundOptimizer]:
        return optimizers_of(self.model, self._given)

    def _save_variables(self, *, costly: bool) -> None:
        found = self._found()
        self._copies = Copies(inventory_of(self.model, found))
        self._saved_built = {one.name for one in found if one.optimizer.built}
        layers = outside_variables.read(self.model, costly=costly)
        if not costly:  # files of `save_assets` don't change while a model is trained
            pairs = zip(self._saved_layers, layers, strict=True)
            layers = [{**(old or {}), **(new or {})} or None for old, new in pairs]
        self._saved_layers = layers


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
