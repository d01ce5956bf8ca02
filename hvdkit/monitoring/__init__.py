"""What a job does, in figures: where they come from, and where they go."""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.monitoring.sample import QUANTITIES, Alarm, Job, Quantity, RankSample, Sample
    from hvdkit.monitoring.sink import Sink, TakesModel
    from hvdkit.monitoring.sinks.json_lines import JsonLines
    from hvdkit.monitoring.sinks.lines import read_lines
    from hvdkit.monitoring.sinks.mlflow import MLflow
    from hvdkit.monitoring.sinks.prometheus import Prometheus
    from hvdkit.monitoring.sinks.tensorboard import TensorBoard
    from hvdkit.monitoring.sinks.terminal import Terminal
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={
            "hvdkit.monitoring.sample": "QUANTITIES Alarm Job Quantity RankSample Sample",
            "hvdkit.monitoring.sink": "Sink TakesModel",
            "hvdkit.monitoring.sinks.json_lines": "JsonLines",
            "hvdkit.monitoring.sinks.lines": "read_lines",
            "hvdkit.monitoring.sinks.mlflow": "MLflow",
            "hvdkit.monitoring.sinks.prometheus": "Prometheus",
            "hvdkit.monitoring.sinks.tensorboard": "TensorBoard",
            "hvdkit.monitoring.sinks.terminal": "Terminal",
        },
    )

__all__ = [
    "QUANTITIES",
    "Alarm",
    "Job",
    "JsonLines",
    "MLflow",
    "Prometheus",
    "Quantity",
    "RankSample",
    "Sample",
    "Sink",
    "TakesModel",
    "TensorBoard",
    "Terminal",
    "read_lines",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
