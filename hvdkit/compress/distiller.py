"""A student that learns from a teacher, in `fit`."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.compress.soft_targets import SoftTargets
from hvdkit.compress.teachers import gives_logits, require_fitting, require_same_teacher
from hvdkit.state.reachable import leading_optimizer

_TEMPERATURE = 2.0


class Distiller(keras.Model):
    """Train a student on a teacher's outputs and on the labels (Hinton et al., arXiv 1503.02531).

    The loss is hard_weight times the one given to `compile`, and (1 - hard_weight) times the soft
    one, T^2 KL(teacher || student); with what the student's regularizers add. Sample weights, class
    weights and masks weigh both. Outputs are [batch, classes] or [batch, ..., classes]: in token
    classification sample weights [batch, time] leave out the padding.

    For Keras it is the student: `weights`, `predict`, metrics, checkpoints, files that `save` and
    the callbacks write, are those of the student alone. The teacher runs in inference mode and is
    not changed: neither its weights nor its moving statistics nor its `trainable`. The ranks check
    at the start of `fit` that it is the same on all of them. (Keras's own
    `keras.distillation.Distiller` leaves out sample weights and masks, and saves the teacher, too.)

    Args:
        teacher: a built model with one output.
        student: a built model that takes the same inputs, with an output of the same shape; it
            shares no layers with the teacher.
        temperature: T; default 2.
        hard_weight: the share of the loss that was given to `compile`, from 0 (then it needs no
            labels) to 1.
        soft_loss: a Keras loss of (teacher's outputs, student's outputs) in the place of
            `SoftTargets(temperature)`: such as `keras.losses.MeanSquaredError()` for a regression,
            or a `SoftTargets` that says what are logits, where the models' last layers do not.
        name: the model's name.

    Attributes:
        teacher: the teacher.
        student: the student.

    Raises:
        ValueError: an argument is out of range; models that do not fit: not built, several outputs,
            other shapes, common weights; outputs that are no classes; last layers that do not tell
            whether they give logits.
        RankMismatchError: on every rank, in `fit`: the ranks have different teachers.

    Example:
        >>> distiller = hvd.compress.Distiller(teacher, student, temperature=4.0, hard_weight=0.1)
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3))
        >>> distiller.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        >>> distiller.fit(hvd.shard((x, y), batch_size=32), epochs=10, callbacks=[start])
        >>> student.save("student.keras")
    """

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        *,
        temperature: float | None = None,
        hard_weight: float = 0.5,
        soft_loss: keras.losses.Loss | None = None,
        name: str | None = None,
    ) -> None:
        # Keras scales losses, which 16 bits need, by the policy of the model that is compiled.
        policy = getattr(student, "dtype_policy", None)
        super().__init__(name=name, dtype=policy, autocast=False)
        if not isinstance(hard_weight, (int, float)) or not 0 <= hard_weight <= 1:
            raise ValueError(f"hard_weight is a number from 0 to 1, not {hard_weight!r}.")
        require_fitting(teacher, student)
        if soft_loss is None:
            soft_loss = SoftTargets(
                _TEMPERATURE if temperature is None else temperature,
                teacher_logits=gives_logits(teacher, "teacher"),
                student_logits=gives_logits(student, "student"),
            )
        elif temperature is not None:
            raise ValueError("give a temperature or a soft_loss, not both.")
        elif getattr(soft_loss, "reduction", None) not in ("sum_over_batch_size", "mean"):
            raise ValueError(
                "the soft_loss is a keras.losses.Loss with reduction='sum_over_batch_size', an "
                "average over rows."
            )
        self.student = student
        self.hard_weight = float(hard_weight)
        # Past Keras's attribute tracking, which would make the teacher a part of the model.
        self.__dict__["teacher"] = teacher
        self.__dict__["soft_loss"] = soft_loss
        self.supports_masking = True
        self.built = True

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, loss_weights: Any = None, **kwargs: Any
    ) -> None:
        """As for the student; `loss` is the hard one.

        Raises:
            ValueError: there is no loss and hard_weight is not 0, or loss_weights are given.
        """
        if loss_weights is not None:
            raise ValueError("a Distiller weighs its losses by hard_weight, not by loss_weights.")
        if loss is None and self.hard_weight:
            raise ValueError(
                f"hard_weight is {self.hard_weight}, so compile needs a loss; hard_weight=0 trains "
                "on the teacher's outputs alone."
            )
        hard = loss if self.hard_weight else None
        weight = self.hard_weight if self.hard_weight else None
        super().compile(optimizer, hard, loss_weights=weight, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """What the student gives."""
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The hard and the soft loss."""
        outputs = keras.ops.stop_gradient(self.teacher(x, training=False))
        if tuple(outputs.shape[1:]) != tuple(y_pred.shape[1:]):
            raise ValueError(
                f"the teacher's outputs have the shape {tuple(outputs.shape)}, the student's "
                f"{tuple(y_pred.shape)}."
            )
        soft = self.soft_loss(outputs, y_pred, sample_weight)
        total = (1 - self.hard_weight) * soft
        if self.hard_weight or self.losses:
            others = super().compute_loss(x, y, y_pred, sample_weight, training)
            total = total + keras.ops.cast(others, total.dtype)
        return total

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras's `fit`, after the ranks have compared their teachers."""
        require_same_teacher(self.teacher, leading_optimizer(self))
        return super().fit(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save the student."""
        return self.student.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Save the student's weights."""
        return self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Load the student's weights."""
        return self.student.load_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export the student."""
        return self.student.export(*args, **kwargs)
