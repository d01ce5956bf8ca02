"""What a job does, in figures: where they come from, and where they go."""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.monitoring.alarms.base import Lookout
    from hvdkit.monitoring.alarms.defaults import default_alarms
    from hvdkit.monitoring.alarms.full_disk import FullDisk
    from hvdkit.monitoring.alarms.loss_jump import LossJump
    from hvdkit.monitoring.alarms.slow_data import SlowData
    from hvdkit.monitoring.alarms.slow_throughput import SlowThroughput
    from hvdkit.monitoring.alarms.straggler import Straggler
    from hvdkit.monitoring.alarms.web_hook import WebHook
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
            "hvdkit.monitoring.alarms.base": "Lookout",
            "hvdkit.monitoring.alarms.defaults": "default_alarms",
            "hvdkit.monitoring.alarms.full_disk": "FullDisk",
            "hvdkit.monitoring.alarms.loss_jump": "LossJump",
            "hvdkit.monitoring.alarms.slow_data": "SlowData",
            "hvdkit.monitoring.alarms.slow_throughput": "SlowThroughput",
            "hvdkit.monitoring.alarms.straggler": "Straggler",
            "hvdkit.monitoring.alarms.web_hook": "WebHook",
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
    "Lookout",
    "default_alarms",
    "FullDisk",
    "LossJump",
    "SlowData",
    "SlowThroughput",
    "Straggler",
    "WebHook",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
