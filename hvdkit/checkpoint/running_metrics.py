"""The metrics of an epoch that is resumed in its middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.variables import assign, misfit
from hvdkit.engine import raise_everywhere
from hvdkit.errors import CheckpointError

_GROUP = "metrics"


def metric_variables(model: Any) -> list[Any]:
    """The variables of a model's metrics."""
    return [variable for metric in model.metrics for variable in metric.variables]


def restore_metrics(model: Any, own: Contents, source: str, build: Callable[[], None]) -> None:
    """Set the metrics of this rank to what they were in the middle of the epoch.

    Args:
        model: the model, before its first step.
        own: this rank's part of a checkpoint.
        source: where it is from, for messages.
        build: makes the variables of metrics that have none yet.

    Raises:
        CheckpointError: on every rank: the model has other metrics.
    """
    stored = own.values["paths"]
    if _GROUP not in stored:  # saved between two epochs
        return
    if len(stored[_GROUP]) != len(metric_variables(model)):
        build()
    groups = {_GROUP: metric_variables(model)}
    problem = misfit(groups, own.arrays, stored, source)
    raise_everywhere(problem, CheckpointError)
    assign(groups, own.arrays)
