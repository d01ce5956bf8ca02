"""Horovod Elastic for Keras 3: a job that survives ranks that die, and takes new ones."""

from hvdkit.elastic.commit import CommitStateCallback
from hvdkit.elastic.keras_state import KerasState, TensorFlowKerasState
from hvdkit.elastic.object_state import ObjectState
from hvdkit.elastic.progress_callbacks import UpdateBatchStateCallback, UpdateEpochStateCallback
from hvdkit.elastic.run import run, run_fn
from hvdkit.elastic.tensorflow_state import TensorFlowState
from hvdkit.engine.elastic import HorovodInternalError

__all__ = [
    "run",
    "run_fn",
    "KerasState",
    "TensorFlowKerasState",
    "TensorFlowState",
    "ObjectState",
    "CommitStateCallback",
    "UpdateBatchStateCallback",
    "UpdateEpochStateCallback",
    "HorovodInternalError",
]
