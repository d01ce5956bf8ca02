"""The state of TensorFlow variables that belong to no Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.elastic.object_state import ObjectState
from hvdkit.engine import require_same
from hvdkit.state.broadcast import broadcast_variables


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
        self._saved_variables = self._copies()

    def save(self) -> None:
        """Keep a copy of all variables and values in memory (of the host, not of a GPU)."""
        self._saved_variables = self._copies()
        super().save()

    def restore(self) -> None:
        """Put the last copy back."""
        for variable, value in zip(self.variables, self._saved_variables, strict=True):
            variable.assign(value)
        super().restore()

    def receive(self, root_rank: int) -> None:
        """Take the state of a rank; all ranks call it.

        Args:
            root_rank: the rank that sends.

        Raises:
            RankMismatchError: on every rank, when the ranks have different variables.
        """
        super().receive(root_rank)
        require_same(
            "the variables of the state",
            [dtype_and_shape(v.dtype, v.shape) for v in self.variables],
        )
        broadcast_variables(self.variables, root_rank)

    def _copies(self) -> list[tf.Tensor]:
        with tf.device("CPU:0"):
            return [
                tf.identity(v.value if isinstance(v, keras.Variable) else v) for v in self.variables
            ]
