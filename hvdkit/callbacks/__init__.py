"""Keras callbacks for training on several ranks."""

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
from hvdkit.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau

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
    "ReduceLROnPlateau",
]
