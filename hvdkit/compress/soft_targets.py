"""The loss of a student whose targets are a teacher's outputs."""

from __future__ import annotations

from typing import Any

import keras


class SoftTargets(keras.losses.Loss):
    """T^2 KL(teacher || student) between outputs at a temperature T (Hinton, arXiv 1503.02531).

    The factor T^2 keeps the size of its gradients, beside those of other losses, as T changes. The
    loss is the mean over rows (and time steps), weighted by sample weights and masks, as Keras's
    own losses are.

    Args:
        temperature: by which logits are divided; above 0.
        teacher_logits: whether the teacher gives logits, and not probabilities.
        student_logits: whether the student does.
        name: of the loss.

    Raises:
        ValueError: the temperature is no positive number.

    Example:
        >>> loss = hvd.compress.SoftTargets(temperature=4.0)
        >>> loss(teacher_logits, student_logits)  # [batch, ..., classes] both
    """

    def __init__(
        self,
        temperature: float = 2.0,
        *,
        teacher_logits: bool = True,
        student_logits: bool = True,
        name: str = "soft_targets",
    ) -> None:
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        if not isinstance(temperature, (int, float)) or not temperature > 0:
            raise ValueError(f"the temperature is a number above 0, not {temperature!r}.")
        self.temperature = temperature
        self.teacher_logits = teacher_logits
        self.student_logits = student_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The divergence of each row and time step.

        Args:
            y_true: the teacher's outputs [batch, ..., classes].
            y_pred: the student's, of the same shape.
        """
        teacher = self._tempered(y_true, logits=self.teacher_logits)
        student = self._tempered(y_pred, logits=self.student_logits)
        divergence = keras.ops.sum(keras.ops.exp(teacher) * (teacher - student), axis=-1)
        return self.temperature**2 * divergence

    def _tempered(self, outputs: Any, *, logits: bool) -> Any:
        """Log-probabilities at the temperature. Those of probabilities are logits themselves."""
        if not logits:
            outputs = keras.ops.log(keras.ops.maximum(outputs, keras.config.epsilon()))
        return keras.ops.log_softmax(outputs / self.temperature, axis=-1)
