"""Callbacks that hvdkit adds to a `fit`, and the place that `BackupAndRestore` has among them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.callbacks.consistency_check import ConsistencyCheck
from hvdkit.callbacks.nonfinite_steps import NonfiniteSteps
from hvdkit.engine import logger, ops, several_ranks, topology
from hvdkit.engine.elastic import is_elastic
from hvdkit.engine.run_settings import ranks_are_compared
from hvdkit.optimizers.finite import guards
from hvdkit.state.reachable import optimizers_of
from hvdkit.training.comparison import ranks_of_steps
from hvdkit.training.features import Call, Feature


class StopsTogether(Feature):
    """Where callbacks of some ranks end the training with an epoch, all ranks end it there.

    A clock or a file that each rank looks at for itself would let one rank stop, and the others
    wait for it. A rank that stops within an epoch has left the others already; they get the error
    about ranks that wait for each other.
    """

    def before(self, call: Call) -> None:
        """Add the callback that asks, after those of the user."""
        if several_ranks():
            callback = _AskWhoStops()
            callback.set_model(call.model)  # as Keras does not for those of a given CallbackList
            call.add_callback(callback)


class _AskWhoStops(keras.callbacks.Callback):
    """Set `stop_training` on all ranks if one of them has set it."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ask."""
        ranks = ranks_of_steps(self.model)
        if ranks is None:
            return
        own = tf.constant([bool(self.model.stop_training)])
        answers = ops.allgather(own, name="hvdkit.stop_training", process_set=ranks).numpy()
        everyone = topology.process_set_ranks(ranks)
        stopping = [rank for rank, stops in zip(everyone, answers, strict=True) if stops]
        if not stopping:
            return
        self.model.stop_training = True
        if len(stopping) < len(everyone) and topology.rank() == everyone[0]:
            logger.warning(
                "hvdkit: the training ends after epoch %d, as callbacks of rank %s stop it.",
                epoch + 1,
                ", ".join(map(str, stopping)),
            )


class BackupLast(Feature):
    """`BackupAndRestore` comes after all callbacks with a state, the history among them.

    It then restores what the others have set back in `on_train_begin`, and saves what they have
    done.
    """

    def __init__(self) -> None:
        self._backup: BackupAndRestore | None = None

    def before(self, call: Call) -> None:
        """Put it there."""
        given = call.callbacks
        saving = [callback for callback in given if isinstance(callback, BackupAndRestore)]
        if not saving:
            return
        others = [callback for callback in given if callback not in saving]
        if not any(isinstance(callback, keras.callbacks.History) for callback in others):
            others.append(keras.callbacks.History())
        call.callbacks = [*others, *saving]
        self._backup = saving[0]
        self._backup.set_others(others)

    @contextlib.contextmanager
    def around(self, call: Call) -> Iterator[None]:
        """After an error nobody saves: the signals mean again what they meant before `fit`."""
        try:
            yield
        except Exception:
            if self._backup is not None:
                self._backup.release_signals()
            raise


class AddedChecks(Feature):
    """`fit` checks that ranks agree, and reports steps that were not finite."""

    def before(self, call: Call) -> None:
        """Add the callbacks that do it."""
        given = call.callbacks
        checks = [callback for callback in given if isinstance(callback, ConsistencyCheck)]
        # In an elastic job the state is sent to all ranks; one that joins has traced no comparison.
        if several_ranks() and not checks and ranks_are_compared() and not is_elastic():
            checks = [ConsistencyCheck()]
            call.add_callback(checks[0])
        for check in checks:
            check.beside(given)
        if any(guards(one.optimizer) for one in optimizers_of(call.model)):
            call.add_callback(NonfiniteSteps(given))
