"""The metrics of an epoch that is resumed in its middle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.variables import assign, misfit
from hvdkit.engine import raise_everywhere
from hvdkit.errors import CheckpointError
from hvdkit.exchange.tracked import Role, Tracked
from hvdkit.mesh.variable import path_of, variable_key

_GROUP = "metrics"


def metric_variables(model: Any) -> list[Tracked]:
    """The variables of a model's metrics.

    Those that Keras lists come first, and then those of trackers that it does not list: where a
    model overrides `metrics`, and of models inside it.
    """
    listed = _listed(model)
    known = {variable_key(row.variable) for row in listed}
    trackers = [metric for layer in model._flatten_layers() for metric in layer._metrics]
    return listed + [r for r in _rows(trackers) if variable_key(r.variable) not in known]


def _listed(model: Any) -> list[Tracked]:
    return _rows(model.metrics)


def _rows(metrics: Iterable[Any]) -> list[Tracked]:
    variables = [variable for metric in metrics for variable in metric.variables]
    return [Tracked(variable, Role.METRIC, path_of(variable)) for variable in variables]


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
    count = len(stored[_GROUP])
    if len(_stored(model, count)) != count:
        build()
    groups = {_GROUP: _stored(model, count)}
    problem = misfit(groups, own.arrays, stored, source)
    raise_everywhere(problem, CheckpointError)
    assign(groups, own.arrays)


def _stored(model: Any, count: int) -> list[Tracked]:
    """Those that a checkpoint holds; older ones hold only what Keras lists."""
    listed = _listed(model)
    return listed if len(listed) == count else metric_variables(model)
