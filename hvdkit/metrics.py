"""Metrics over the rows of all ranks.

Keras's metrics keep sums (totals and counts, confusion matrices), so adding up the states of all
ranks gives the state of one process that saw every row, and its result exactly. A metric of the
user's own that is no subclass of one of Keras's with the same update can say so with the
attribute `hvd_sums_over_ranks = True`; otherwise ranks' results are averaged, weighted by rows.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import (
    RankMismatchError,
    Sum,
    allgather_object,
    logger,
    ops,
    topology,
)
from hvdkit.mesh.mesh import replicas


def sums_over_ranks(metric: Any) -> bool:
    """Whether the states of a metric may be added up over ranks."""
    marked = getattr(metric, "hvd_sums_over_ranks", None)
    if marked is not None:
        return bool(marked)
    for cls in type(metric).__mro__:
        if cls.__module__.startswith("keras."):
            return cls is not keras.metrics.Metric
        if "update_state" in vars(cls) or "result" in vars(cls):
            return False
    return False


def rows_seen(model: Any) -> float:
    """Rows that this rank has seen since its metrics were reset."""
    tracker = getattr(model, "_loss_tracker", None)
    return 0.0 if tracker is None else float(keras.ops.convert_to_numpy(tracker.count))


def _single_metrics(model: Any) -> list[Any]:
    """The model's metrics, with those given to `compile` one by one."""
    found: list[Any] = []
    for metric in model.metrics:
        inner = getattr(metric, "metrics", None)
        found += inner if inner is not None else [metric]
    return found


@contextmanager
def _summed_state(metrics: list[Any]) -> Iterator[None]:
    """While inside, the metrics hold the sums over ranks."""
    variables = [v for metric in metrics for v in metric.variables]
    own = [tf.identity(v.value) for v in variables]
    totals = own
    if topology.process_set_size(replicas()) > 1:
        totals = ops.grouped_allreduce(own, Sum, name="hvdkit.metrics", process_set=replicas())
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total)
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


def metrics_over_ranks(model: Any) -> dict[str, Any]:
    """The results of a model's metrics over the rows of all ranks; the states stay as they are.

    Args:
        model: a compiled model that has seen at least one batch, on every rank.

    Returns:
        Name to result (float or array), the same on every rank.
    """
    metrics = _single_metrics(model)
    summed = [metric for metric in metrics if sums_over_ranks(metric)]
    others = [metric.name for metric in metrics if metric not in summed]
    averaged = {}
    if others:
        _say_average(model, others)
        local = _numbers(model.get_metrics_result())
        own = {name: v for name, v in local.items() if _belongs(name, others)}
        averaged = average_over_ranks(model, own)
    with _summed_state(summed):
        results = _numbers(model.get_metrics_result())
    return {**results, **averaged}


def average_over_ranks(
    model: Any, values: dict[str, Any], rows: float | None = None
) -> dict[str, Any]:
    """Numbers of all ranks, averaged with the rows that each rank has seen as weights.

    Args:
        model: the model, whose loss metric counts rows.
        values: name to number (or array); what is no number stays as it is.
        rows: this rank's weight, if it is not the model's count.

    Returns:
        The values with the averages, the same on every rank.

    Raises:
        RankMismatchError: on every rank, when a name is missing on some; it names both.
    """
    numbers = _numbers(values)
    weight = rows_seen(model) if rows is None else rows
    reports = allgather_object(
        (socket.gethostname(), weight, numbers), name="hvdkit.average_over_ranks"
    )
    _require_same_names(reports)
    weights = np.array([report[1] for report in reports])
    if not weights.any():
        weights = np.ones_like(weights)
    result = dict(values)
    for name in numbers:
        column = [report[2][name] for report in reports]
        if all(np.array_equal(value, column[0]) for value in column):
            result[name] = column[0]
            continue
        mean = np.average(np.array(column, dtype=np.float64), axis=0, weights=weights)
        result[name] = float(mean) if np.ndim(mean) == 0 else mean
    return result


def _require_same_names(reports: list[tuple[str, float, dict[str, Any]]]) -> None:
    everything = dict.fromkeys(name for _, _, numbers in reports for name in numbers)
    problems = []
    for name in everything:
        having = [r for r, (_, _, numbers) in enumerate(reports) if name in numbers]
        if len(having) < len(reports):
            missing = [f"{r} ({host})" for r, (host, _, _) in enumerate(reports) if r not in having]
            problems.append(
                f"the metric {name!r} exists on rank {', '.join(map(str, having))}, "
                f"but not on rank {', '.join(missing)}"
            )
    if problems:
        raise RankMismatchError(
            "; ".join(problems) + ". Metrics can be averaged only if every rank computes them."
        )


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that are numbers or arrays of numbers, as Python floats or NumPy arrays."""
    numbers = {}
    for name, value in values.items():
        if isinstance(value, (str, bytes)) or value is None:
            continue
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            continue
        if array.dtype.kind in "fiub":
            numbers[name] = float(array) if array.ndim == 0 else array
    return numbers


def _belongs(name: str, metrics: list[str]) -> bool:
    return any(name == metric or name.endswith(f"_{metric}") for metric in metrics)


def _say_average(model: Any, names: list[str]) -> None:
    said = vars(model).setdefault("_hvdkit_said_average", set())
    new = [name for name in names if name not in said]
    said.update(new)
    if new and topology.rank() == 0:
        logger.warning(
            "hvdkit: the metric %s is averaged over ranks, weighted by rows, which may differ "
            "from its value over all rows. If adding up its state over ranks is right, set "
            "hvd_sums_over_ranks = True on its class.",
            ", ".join(new),
        )
