"""Horovod Elastic for Keras 3: a job that survives ranks that die, and takes new ones."""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.elastic.commit import CommitStateCallback
    from hvdkit.elastic.keras_state import KerasState, TensorFlowKerasState
    from hvdkit.elastic.object_state import ObjectState
    from hvdkit.elastic.progress_callbacks import UpdateBatchStateCallback, UpdateEpochStateCallback
    from hvdkit.elastic.retry import run, run_fn
    from hvdkit.elastic.tensorflow_state import TensorFlowState
    from hvdkit.engine.elastic import HorovodInternalError
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        training={
            "hvdkit.elastic.commit": "CommitStateCallback",
            "hvdkit.elastic.keras_state": "KerasState TensorFlowKerasState",
            "hvdkit.elastic.object_state": "ObjectState",
            "hvdkit.elastic.progress_callbacks": (
                "UpdateBatchStateCallback UpdateEpochStateCallback"
            ),
            "hvdkit.elastic.retry": "run run_fn",
            "hvdkit.elastic.tensorflow_state": "TensorFlowState",
            "hvdkit.engine.elastic": "HorovodInternalError",
        },
    )

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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
