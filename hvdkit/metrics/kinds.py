"""Which metrics a model has, and what may be done with their states.

Keras's metrics keep sums (totals and counts, confusion matrices), so adding up the states of all
ranks gives the state of one process that saw every row, and its result exactly.

A mean that is given one number for a batch (`tracker.update_state(loss)`, or a metric function
that returns one) counts batches, not rows. Only while it is updated can that be seen: there the
batch counts its scale.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from hvdkit.data.batch_scale import current_scale
from hvdkit.keras_internals import is_of_keras
from hvdkit.metrics.means import is_no_mean
from hvdkit.patches import Patch

_PER_BATCH = "_hvdkit_one_number_a_batch"
_COUNTS_BATCHES = "_hvdkit_counts_batches"
_NO_MEAN = "_hvdkit_no_mean"

# The static shape of the predictions that a metric's function is given, while it is.
_predictions: contextvars.ContextVar[tuple[int | None, ...] | None] = contextvars.ContextVar(
    "hvdkit_predictions", default=None
)


def sums_over_ranks(metric: Any) -> bool:
    """Whether the states of a metric may be added up over ranks.

    True for Keras's own, and for those that only change their `result`; for a metric of the
    user's own if it says so with the attribute `hvd_sums_over_ranks`, or if its whole state is
    that of such metrics inside it.
    """
    marked = getattr(metric, "hvd_sums_over_ranks", None)
    if marked is not None:
        return bool(marked)
    if not metric._variables and metric._metrics:
        return all(sums_over_ranks(inner) for inner in metric._metrics)
    for cls in type(metric).__mro__:
        if is_of_keras(cls):
            return cls is not keras.metrics.Metric
        if "update_state" in vars(cls):
            return False
    return False


def metrics_of(model: Any) -> list[Any]:
    """All metrics that the model's steps may update, one by one, each once.

    Besides `model.metrics` (which a model may override) those of the layers and models inside it.
    """
    found = list(model.metrics)
    for layer in model._flatten_layers():
        trains = isinstance(layer, keras.Model) and layer.compiled
        found += layer._get_own_metrics() if trains else layer._metrics
    single = [one for metric in found for one in one_by_one(metric) or _given(metric)]
    return list({id(one): one for one in single}.values())


def one_by_one(metric: Any) -> list[Any]:
    """The metrics that Keras keeps in one of its lists; a metric that is none is alone."""
    if is_of_keras(type(metric)):
        inner = getattr(metric, "metrics", None)
        if inner is not None:
            return list(inner)
    return [metric]


def _given(metric: Any) -> list[Any]:
    """Metrics that `compile` got and that have a state before its list of them is made."""
    given = [getattr(metric, name, None) for name in ("_user_metrics", "_user_weighted_metrics")]
    return [one for one in keras.tree.flatten(given) if isinstance(one, keras.metrics.Metric)]


def takes_one_number_a_batch(metric: Any) -> bool:
    """Whether a metric has been given what its own function, or a user, made of a whole batch."""
    return bool(vars(metric).get(_PER_BATCH))


def takes_no_mean(metric: Any) -> bool:
    """Whether a metric has been given a number of a batch that is no mean over its rows."""
    return bool(vars(metric).get(_NO_MEAN))


def variables_that_count_batches(metric: Any) -> set[int]:
    """Those (by id) to which a batch was one in the last update, however many its rows."""
    own = metric._variables if vars(metric).get(_COUNTS_BATCHES) else []
    inner = [variables_that_count_batches(one) for one in metric._metrics]
    return {id(variable) for variable in own}.union(*inner)


def _update_mean(
    original: Callable[..., Any], metric: Any, values: Any, sample_weight: Any = None
) -> Any:
    by_batch = _is_for_a_batch(values)
    counts_batches = by_batch and sample_weight is None
    scale = current_scale()
    if counts_batches and scale is not None and scale.is_at_hand():
        sample_weight, counts_batches = scale.value, False
    # Past Keras's attribute tracking.
    vars(metric)[_COUNTS_BATCHES] = counts_batches
    if by_batch and is_no_mean(values):
        vars(metric)[_NO_MEAN] = True
    return _update_sum(original, metric, values, sample_weight)


def _update_sum(
    original: Callable[..., Any], metric: Any, values: Any, sample_weight: Any = None
) -> Any:
    if _is_for_a_batch(values):
        vars(metric)[_PER_BATCH] = True
    return original(metric, values, sample_weight=sample_weight)


def _update_wrapper(
    original: Callable[..., Any], metric: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any
) -> Any:
    token = _predictions.set(_shape_of(y_pred))
    try:
        return original(metric, y_true, y_pred, *args, **kwargs)
    finally:
        _predictions.reset(token)


def _is_for_a_batch(values: Any) -> bool:
    """Whether values are a number, or what a metric's function has made of all rows together."""
    shape, predictions = _shape_of(values), _predictions.get()
    if not shape or not predictions or shape[0] is None:
        return shape == ()
    rows = predictions[0]
    return rows is None or shape[0] % rows != 0


def _shape_of(values: Any) -> tuple[int | None, ...] | None:
    """The static shape, None where even its length is not known."""
    shape = values.shape if hasattr(values, "shape") else np.shape(values)
    return None if getattr(shape, "rank", 0) is None else tuple(shape)


_WHY = "a number that is given for a batch counts as many rows as the batch has"

PATCHES = (
    Patch(keras.metrics.Mean, "update_state", _update_mean, _WHY),
    Patch(keras.metrics.Sum, "update_state", _update_sum, _WHY),
    Patch(keras.metrics.MeanMetricWrapper, "update_state", _update_wrapper, _WHY),
)
