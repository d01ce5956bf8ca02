"""Callbacks that hvdkit adds to a `fit`."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.callbacks.backup_and_restore import BackupAndRestore
from hvdkit.callbacks.consistency_check import ConsistencyCheck
from hvdkit.callbacks.nonfinite_steps import NonfiniteSteps
from hvdkit.data.sharded import ShardedData
from hvdkit.engine.elastic import is_elastic
from hvdkit.engine.run_settings import ranks_are_compared
from hvdkit.optimizers.finite import guards
from hvdkit.state.reachable import optimizers_of


def add_callback(arguments: dict[str, Any], callback: Any, *, first: bool = False) -> None:
    """Put a callback at the end of those that `fit` got, or before them.

    Args:
        arguments: of `fit`; its callbacks may be a list, a single one, None or a `CallbackList`.
        callback: the callback.
        first: whether it comes before the others.
    """
    given = given_callbacks(arguments)
    set_callbacks(arguments, [callback, *given] if first else [*given, callback])


def set_callbacks(arguments: dict[str, Any], callbacks: list[Any]) -> None:
    """Give `fit` other callbacks."""
    if isinstance(arguments["callbacks"], keras.callbacks.CallbackList):
        arguments["callbacks"].callbacks = callbacks
    else:
        arguments["callbacks"] = callbacks


def given_callbacks(arguments: dict[str, Any]) -> list[Any]:
    """The callbacks that `fit` got, as a list."""
    callbacks = arguments["callbacks"]
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return list(keras.tree.flatten(callbacks or []))


def add_checks(model: Any, arguments: dict[str, Any], several_ranks: bool) -> None:
    """Add the check that ranks agree, and the report of steps that were not finite.

    Args:
        model: the model to be trained.
        arguments: of `fit`.
        several_ranks: whether there are other ranks.
    """
    given = given_callbacks(arguments)
    checks = [callback for callback in given if isinstance(callback, ConsistencyCheck)]
    # In an elastic job the state is sent to all ranks, and one that joins has traced no comparison.
    if several_ranks and not checks and ranks_are_compared() and not is_elastic():
        checks = [ConsistencyCheck()]
        add_callback(arguments, checks[0])
    for check in checks:
        check.beside(given)
    if any(guards(one.optimizer) for one in optimizers_of(model)):
        add_callback(arguments, NonfiniteSteps(given))


def save_last(arguments: dict[str, Any]) -> BackupAndRestore | None:
    """Put `BackupAndRestore` after all callbacks with a state, the history among them.

    It then restores what the others have set back in `on_train_begin`, and saves what they have
    done. Returns it.

    Args:
        arguments: of `fit`.
    """
    given = given_callbacks(arguments)
    saving = [callback for callback in given if isinstance(callback, BackupAndRestore)]
    if not saving:
        return None
    others = [callback for callback in given if callback not in saving]
    if not any(isinstance(callback, keras.callbacks.History) for callback in others):
        others.append(keras.callbacks.History())
    set_callbacks(arguments, [*others, *saving])
    saving[0].set_others(others)
    return saving[0]


class _FollowEpochs(keras.callbacks.Callback):
    """Tell sharded data which epoch starts; Keras may have read a batch before the first."""

    def __init__(self, data: ShardedData, ahead: int) -> None:
        super().__init__()
        self._data = data
        self._ahead = ahead

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set its epoch."""
        self._data.set_epoch(epoch + self._ahead)


def follow_epochs(data: ShardedData, arguments: dict[str, Any]) -> None:
    """Let a second `fit` go on with the next epoch's order; `initial_epoch` names it.

    Args:
        data: the training data.
        arguments: of `fit`.
    """
    follow = _FollowEpochs(data, ahead=0 if arguments["initial_epoch"] else data.epoch)
    add_callback(arguments, follow, first=True)
