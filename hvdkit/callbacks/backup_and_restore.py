"""Save the training while it runs, and go on from there when the command is started again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import keras

from hvdkit.checkpoint.callback_states import (
    callback_states,
    restore_callback_states,
    warn_of_lost_states,
)
from hvdkit.checkpoint.newest import newest_for_all
from hvdkit.checkpoint.preemption import Agreement, Preempted, SignalFlag
from hvdkit.checkpoint.random_states import random_states, restore_random_states
from hvdkit.checkpoint.running_metrics import metric_variables, restore_metrics
from hvdkit.checkpoint.saver import Progress, Saver
from hvdkit.checkpoint.store import Manifest
from hvdkit.checkpoint.training_state import TrainingState
from hvdkit.data.fit_position import FitPosition, current_position
from hvdkit.engine import logger, require_initialized, shutdown, topology
from hvdkit.errors import CheckpointError
from hvdkit.mesh.mesh import replicas
from hvdkit.state.tracing import build_metrics
from hvdkit.watch.slices import CHECKPOINTS, notes


class BackupAndRestore(keras.callbacks.Callback):
    """Save the training, and go on by itself when the same command is started again.

    Saved are the model with what its layers keep outside of variables, all optimizers that it holds
    with all they keep, the epoch and the batch, the place in data from `hvd.shard`, the running
    metrics, the states of random generators and of callbacks.
    A run that was killed at any step ends with the weights of one that was never stopped, to the
    bit, where the training itself is exact. What is exact is in docs/checkpoints.md.

    Files are written beside the training: a save costs the training the time to copy the
    variables in memory. One that starts while the one before is still being written waits for it.

    SIGTERM and SIGUSR1 to any rank save at the next step boundary, and end all ranks with exit
    status 75.

    Args:
        directory: the folder of the checkpoints, which all hosts share; one for each `fit`.
        save_freq: "epoch", or a number of batches. The end of the training is saved always.
        keep: how many checkpoints to keep. With 1 there is none to go back to if the newest is
            damaged.
        preemption: whether to save and end at SIGTERM and SIGUSR1.

    Raises:
        ValueError: an argument is out of range, or the model has no variables yet.
        CheckpointError: on every rank: the folder can't be written or is not shared; a
            checkpoint could not be written; there are some, but none is whole; or they belong to
            another model.

    Example:
        >>> backup = hvd.callbacks.BackupAndRestore("run1", save_freq=500)
        >>> model.fit(hvd.shard((x, y), 32), epochs=10, callbacks=[backup])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        save_freq: Literal["epoch"] | int = "epoch",
        keep: int = 3,
        preemption: bool = True,
    ) -> None:
        super().__init__()
        if save_freq != "epoch" and (not isinstance(save_freq, int) or save_freq < 1):
            raise ValueError(f'save_freq is "epoch" or a number of batches, not {save_freq!r}.')
        if keep < 1:
            raise ValueError(f"keep is the number of checkpoints to keep, not {keep!r}.")
        self.directory = directory
        self.save_freq = save_freq
        self.keep = keep
        self.preemption = preemption
        self._others: Sequence[Any] = ()
        self._signal = SignalFlag()
        self._saver: Saver | None = None
        self._trained = 0
        self._in_epoch = 0
        self._epoch = 0
        self._is_due = False

    def set_others(self, callbacks: Sequence[Any]) -> None:
        """Say whose states are saved; `fit` does it."""
        self._others = callbacks

    def release_signals(self) -> None:
        """Stop to listen to signals; `fit` does it after an error."""
        self._signal.uninstall()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Go back to the newest whole checkpoint, if there is one."""
        require_initialized("BackupAndRestore")
        self._training = TrainingState(self.model)
        self._saver = Saver(self.directory, self.keep)
        self._agreement = Agreement()
        self._trained, self._is_due = 0, False
        warn_of_lost_states(self._others)
        if self.preemption:
            self._signal = SignalFlag()
            self._signal.install()
        manifest = newest_for_all(self._saver.store)
        if manifest is not None:
            self._restore(manifest)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count from the start of the epoch."""
        self._epoch, self._in_epoch = epoch, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, if it is time, or if a rank was told to end."""
        steps = self._count(batch)
        if isinstance(self.save_freq, int):
            self._is_due |= self._trained // self.save_freq != (
                (self._trained - steps) // self.save_freq
            )
        told_to_end = self._agreement.is_due(steps) and self._agree()
        if self._in_epoch == self.params.get("steps"):
            self._signal.raised |= told_to_end  # on_epoch_end saves, after the validation
            return
        if self._is_due or told_to_end:
            self._save(self._epoch, epoch_ended=False)
        if told_to_end:
            self._end()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save, if it is time, or if a rank was told to end."""
        told_to_end = self._agree()
        last = self.model.stop_training or epoch + 1 == self.params.get("epochs")
        if self._is_due or last or self.save_freq == "epoch" or told_to_end:
            self._save(epoch + 1, epoch_ended=True)
        if told_to_end and not last:
            self._end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Wait until everything is on the disk."""
        assert self._saver is not None
        self.model._initial_epoch = None
        self._signal.uninstall()
        saver, self._saver = self._saver, None
        saver.close()

    def _count(self, batch: int) -> int:
        steps = batch + 1 - self._in_epoch
        if self._in_epoch == 0 and self._position().resumed:
            steps = self.model.steps_per_execution  # the epoch has begun in its middle
        self._in_epoch = batch + 1
        self._trained += steps
        return steps

    def _agree(self) -> bool:
        """Let the ranks agree on what is next; whether one of them was told to end."""
        assert self._saver is not None
        told, progress = self._agreement.largest(self._signal.raised, self._saver.progress())
        self._saver.go_on(Progress(progress))
        return bool(told)

    def _save(self, epoch: int, *, epoch_ended: bool) -> None:
        with notes.times(CHECKPOINTS, "saving a checkpoint"):
            self._save_now(epoch, epoch_ended=epoch_ended)

    def _save_now(self, epoch: int, *, epoch_ended: bool) -> None:
        assert self._saver is not None
        self._is_due = False
        position = self._position()
        about = {
            "epoch": epoch,
            "batch": 0 if epoch_ended else self._in_epoch,
            "trained_batches": self._trained,
            "finished": bool(epoch_ended and self.model.stop_training),
            "data": position.state(epoch_ended=epoch_ended),
        }
        states, arrays = callback_states(self._others)
        metrics = {} if epoch_ended else {"metrics": metric_variables(self.model)}
        self._saver.save(
            self._training.snapshot(
                about,
                shared_arrays=arrays,
                own_groups=metrics,
                own_values={"callbacks": states, "random": random_states()},
            )
        )

    def _end(self) -> None:
        assert self._saver is not None
        self._saver.close()
        self._say(
            logging.WARNING,
            f"told to end by a signal: saved at epoch {self._epoch + 1}, after {self._in_epoch} "
            "batches. The same command goes on from there.",
        )
        self._signal.ignore()
        # All ranks end here: none is missed by the others.
        shutdown()
        raise Preempted

    def restore(self) -> None:
        """Go back to the newest whole checkpoint with the weights, but not with the data.

        `hvd.nonfinite.Restore` calls it on every rank at the same step.

        Raises:
            CheckpointError: on every rank: there is no checkpoint yet, or none is whole.
        """
        assert self._saver is not None
        self._saver.finish()
        manifest = newest_for_all(self._saver.store)
        if manifest is None:
            raise CheckpointError(f"there is no checkpoint in {self.directory} yet to go back to.")
        self._training.restore(manifest)

    def _restore(self, manifest: Manifest) -> None:
        shared, own = self._training.restore(manifest)
        about = manifest.about
        restore_callback_states(self._others, own.values["callbacks"], shared.arrays)
        restore_random_states(own.values["random"])
        self._trained = about["trained_batches"]
        self.model._initial_epoch = about["epoch"]
        if about["finished"]:  # before the last epoch that was asked for
            self.model._initial_epoch = max(about["epoch"], self.params.get("epochs") or 0)
        batch = about["batch"]
        if not self._position().can_start_at(about["data"], same_ranks=self._same_ranks(manifest)):
            batch = 0
            self._say(
                logging.WARNING,
                f"{manifest.path} was written by {manifest.ranks} ranks, and only data from "
                f"hvd.shard can be divided anew: epoch {about['epoch'] + 1} starts again.",
            )
        elif about["data"]:

            def before_first_step(spec: Any) -> None:
                source = str(manifest.path)
                restore_metrics(self.model, own, source, lambda: build_metrics(self.model, spec))

            self._position().start_at(batch, about["data"], before_first_step)
        self._say(
            logging.INFO,
            f"going on from {manifest.path}: epoch {about['epoch'] + 1}, after {batch} batches.",
        )

    def _same_ranks(self, manifest: Manifest) -> bool:
        return manifest.mesh[0] == topology.process_set_size(replicas())

    def _say(self, level: int, text: str) -> None:
        if topology.rank() == 0:
            logger.log(level, "hvdkit: %s", text)

    def _position(self) -> FitPosition:
        position = current_position()
        if position is None:
            raise ValueError(
                "BackupAndRestore is for fit; a loop of one's own calls hvd.checkpoint.save."
            )
        return position
