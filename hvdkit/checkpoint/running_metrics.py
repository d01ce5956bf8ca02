"""The metrics of an epoch that is resumed in its middle."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.errors import CheckpointError
from hvdkit.checkpoint.variables import assign, misfit
from hvdkit.data.batch import data_of
from hvdkit.engine import raise_everywhere

_GROUP = "metrics"


def metric_variables(model: Any) -> list[Any]:
    """The variables of a model's metrics."""
    return [variable for metric in model.metrics for variable in metric.variables]


def restore_metrics(model: Any, spec: Any, own: Contents, source: str) -> None:
    """Set the metrics of this rank to what they were in the middle of the epoch.

    Args:
        model: the model, before its first step.
        spec: the type specification of a batch; Keras makes the variables of most metrics when
            it knows the shapes of the targets and predictions.
        own: this rank's part of a checkpoint.
        source: where it is from, for messages.

    Raises:
        CheckpointError: on every rank: the model has other metrics.
    """
    if _GROUP not in own.values["paths"]:  # saved between two epochs
        return
    data = data_of(spec)
    symbolic = keras.tree.map_structure(
        lambda s: keras.KerasTensor(s.shape, keras.backend.standardize_dtype(s.dtype)), data
    )
    model._symbolic_build(data_batch=symbolic)
    groups = {_GROUP: metric_variables(model)}
    problem = misfit(groups, own.arrays, own.values["paths"], source)
    raise_everywhere(problem, CheckpointError)
    assign(groups, own.arrays)
