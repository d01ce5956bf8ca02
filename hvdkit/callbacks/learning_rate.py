"""Learning rates for large global batches (Goyal et al. 2017, arXiv:1706.02677)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.mesh.mesh import replicas


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Set the learning rate to `initial_lr * multiplier` between two epochs.

    With momentum correction (section 3.1 of the paper) a momentum buffer that holds the old
    learning rate is scaled by new / old when the rate changes. Horovod multiplies the momentum
    itself for one step, which Keras 3 has built into the compiled step as a constant; scaling the
    buffer has the same effect on it, and takes effect in a compiled `fit`.

    Args:
        initial_lr: the learning rate at a multiplier of 1.
        multiplier: a function of the epoch (an int with `staircase`, else epoch + batch / steps),
            or a number m, which stands for m ** (epoch - start_epoch).
        start_epoch: the first epoch to adjust.
        end_epoch: the first epoch to leave alone again; None for never.
        staircase: adjust at the start of each epoch; otherwise before each batch.
        momentum_correction: scale the momentum buffers when the rate changes.
        steps_per_epoch: batches of an epoch; by default what `fit` knows.

    Raises:
        ValueError: no `initial_lr`; or batches per epoch are needed and not known; or the
            optimizer has a `LearningRateSchedule`.
    """

    def __init__(
        self,
        initial_lr: float,
        multiplier: float | Callable[[Any], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if initial_lr is None:
            raise ValueError("initial_lr is required.")
        self.initial_lr = initial_lr
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.staircase = staircase
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.current_epoch = 0
        if callable(multiplier):
            self.multiplier = multiplier
        else:
            self.multiplier = lambda epoch: multiplier ** (epoch - start_epoch)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find out the batches of an epoch."""
        optimizer = _updating_optimizer(self.model.optimizer)
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if isinstance(optimizer._learning_rate, schedule):
            raise ValueError(
                f"{type(self).__name__} sets the learning rate, but the optimizer has a "
                "LearningRateSchedule; use one of the two."
            )
        if not self.staircase and not self.steps_per_epoch:
            self.steps_per_epoch = self.params.get("steps")
            if not self.steps_per_epoch:
                raise ValueError(
                    f"the number of batches of an epoch is not known: "
                    f"give {type(self).__name__} steps_per_epoch."
                )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch."""
        self.current_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Adjust the learning rate."""
        epoch = self.current_epoch
        if epoch < self.start_epoch or (self.end_epoch is not None and epoch >= self.end_epoch):
            return
        if self.staircase:
            if batch == 0:
                self._adjust(epoch)
        else:
            assert self.steps_per_epoch
            self._adjust(epoch + batch / self.steps_per_epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the learning rate, as "lr"."""
        if logs is not None:
            logs["lr"] = _rate(self.model.optimizer)

    def _adjust(self, epoch: float) -> None:
        optimizer = self.model.optimizer
        old = _rate(optimizer)
        new = self.initial_lr * self.multiplier(epoch)
        optimizer.learning_rate = new
        if self.momentum_correction and old > 0 and new != old:
            for buffer in _momentum_buffers(optimizer):
                buffer.assign(buffer * (new / old))


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raise the learning rate from `initial_lr / size` to `initial_lr`, batch by batch.

    With e = epoch + (batch + 1) / steps the rate is
    `initial_lr / size * (e * (size - 1) / warmup_epochs + 1)`.

    Args:
        initial_lr: the learning rate after the warm-up, usually scaled by `hvd.size()`.
        warmup_epochs: epochs of the warm-up; a fraction is allowed.
        momentum_correction: scale the momentum buffers when the rate changes.
        steps_per_epoch: batches of an epoch; by default what `fit` knows.
        verbose: 1 to print the rate at the end, on rank 0.
    """

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: float = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        if warmup_epochs <= 0:
            raise ValueError(f"warmup_epochs is above 0, not {warmup_epochs}.")

        def multiplier(epoch: float) -> float:
            assert self.steps_per_epoch
            # One batch ahead, so that an epoch ends on the rate of its end.
            done = min(epoch + 1.0 / self.steps_per_epoch, warmup_epochs)
            size = topology.process_set_size(replicas())
            return 1.0 / size * (done * (size - 1) / warmup_epochs + 1)

        end_epoch = int(-(-warmup_epochs // 1))
        super().__init__(
            initial_lr,
            multiplier,
            start_epoch=0,
            end_epoch=end_epoch,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say that the warm-up is done."""
        super().on_epoch_end(epoch, logs)
        if self.verbose and self.end_epoch == epoch + 1 and topology.rank() == 0:
            rate = _rate(self.model.optimizer)
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {rate:g}.")


def _rate(optimizer: Any) -> float:
    """The learning rate, also of an optimizer that `tf.distribute` has mirrored."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def _updating_optimizer(optimizer: Any) -> Any:
    """The optimizer under a `LossScaleOptimizer`, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _momentum_buffers(optimizer: Any) -> list[Any]:
    """The variables that hold past gradients times past learning rates."""
    inner = _updating_optimizer(optimizer)
    if not isinstance(inner, (keras.optimizers.SGD, keras.optimizers.RMSprop)):
        return []
    if not inner.built or not inner.momentum:
        return []
    buffers = getattr(inner, "momentums", None) or getattr(inner, "_momentums", [])
    return [buffer for buffer in buffers if buffer is not None]
