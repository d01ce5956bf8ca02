"""The state of TensorFlow variables that belong to no Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.elastic.copies import Copies
from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import global_process_set
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import path_of
from hvdkit.state.sending import send_variables


class TensorFlowState(ObjectState):
    """Variables, and values of the training loop.

    Args:
        variables: `tf.Variable` or `keras.Variable`, the same on all ranks; None for the variables
            that TensorFlow 1 collects.
        session: ignored; kept for scripts written for TensorFlow 1.
        **kwargs: names and first values of other things to keep, such as `batch=0`; they become
            attributes.

    Raises:
        ValueError: there are no variables.

    Example:
        >>> state = hvd.elastic.TensorFlowState([weights, bias], batch=0)
        >>> train(state)  # a function that is decorated with hvd.elastic.run
    """

    def __init__(
        self, variables: Sequence[Any] | None = None, session: None = None, **kwargs: Any
    ) -> None:
        del session
        found = tf.compat.v1.global_variables() if variables is None else variables
        self.variables = list(found)
        if not self.variables:
            raise ValueError(
                "TensorFlowState has no variables to keep: TensorFlow 2 collects none, so give it "
                "a list, or hvd.elastic.TensorFlowKerasState a model."
            )
        super().__init__(**kwargs)
        self._copies = Copies(self._rows())

    def save(self) -> None:
        """Keep a copy of all variables and values in memory (of the host, not of a GPU)."""
        self._copies = Copies(self._rows())
        super().save()

    def restore(self) -> None:
        """Put the last copy back."""
        self._copies.put_back()
        super().restore()

    def receive(self, root_rank: int) -> None:
        """Take the state of a rank; all ranks call it.

        Args:
            root_rank: the rank that sends.

        Raises:
            RankMismatchError: on every rank, when the ranks have different variables.
        """
        super().receive(root_rank)
        send_variables(self._rows(), root_rank, "the variables of the state")

    def _rows(self) -> list[Tracked]:
        return [
            Tracked(variable, Role.WEIGHT, path_of(variable), same_on=global_process_set)
            for variable in self.variables
        ]
