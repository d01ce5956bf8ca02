"""Keras callbacks for training on several ranks."""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.callbacks.backup_and_restore import BackupAndRestore
    from hvdkit.callbacks.broadcast import BroadcastGlobalVariablesCallback
    from hvdkit.callbacks.consistency_check import ConsistencyCheck
    from hvdkit.callbacks.early_stopping import EarlyStopping
    from hvdkit.callbacks.learning_rate import (
        LearningRateScheduleCallback,
        LearningRateWarmupCallback,
    )
    from hvdkit.callbacks.metric_average import MetricAverageCallback
    from hvdkit.callbacks.model_checkpoint import BestModelCheckpoint, ModelCheckpoint
    from hvdkit.callbacks.monitor import Monitor
    from hvdkit.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        training={
            "hvdkit.callbacks.backup_and_restore": "BackupAndRestore",
            "hvdkit.callbacks.broadcast": "BroadcastGlobalVariablesCallback",
            "hvdkit.callbacks.consistency_check": "ConsistencyCheck",
            "hvdkit.callbacks.early_stopping": "EarlyStopping",
            "hvdkit.callbacks.learning_rate": (
                "LearningRateScheduleCallback LearningRateWarmupCallback"
            ),
            "hvdkit.callbacks.metric_average": "MetricAverageCallback",
            "hvdkit.callbacks.model_checkpoint": "BestModelCheckpoint ModelCheckpoint",
            "hvdkit.callbacks.monitor": "Monitor",
            "hvdkit.callbacks.reduce_lr_on_plateau": "ReduceLROnPlateau",
        },
    )

__all__ = [
    "BackupAndRestore",
    "BestModelCheckpoint",
    "BroadcastGlobalVariablesCallback",
    "ConsistencyCheck",
    "EarlyStopping",
    "LearningRateScheduleCallback",
    "LearningRateWarmupCallback",
    "MetricAverageCallback",
    "ModelCheckpoint",
    "Monitor",
    "ReduceLROnPlateau",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
