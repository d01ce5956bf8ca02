"""From the rows of all ranks to the figures of a job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hvdkit.monitoring.sample import RankSample
from hvdkit.monitoring.window import Column


def rank_figures(rows: np.ndarray, ranks: Sequence[int], hosts: Sequence[str]) -> list[RankSample]:
    """Each rank's figures, of those that have made steps.

    Args:
        rows: a row of `Window.row` for each rank.
        ranks: their numbers.
        hosts: their hosts.
    """
    least = _least_collectives(rows)
    return [
        RankSample(rank, host, _of_rank(row, least))
        for rank, host, row in zip(ranks, hosts, rows, strict=True)
        if row[Column.STEPS] > 0
    ]


def job_figures(ranks: Sequence[RankSample], rows: np.ndarray, replicas: int) -> dict[str, float]:
    """The figures of the job.

    Args:
        ranks: those of each rank.
        rows: a row for each rank.
        replicas: how many replicas of the model the ranks hold; those of one read the same rows.
    """
    rows = rows[rows[:, Column.STEPS] > 0]
    ranks_of_replica = len(rows) / replicas if replicas else 1
    figures: dict[str, float] = {}
    for name, together in _TOGETHER.items():
        values = [rank.values[name] for rank in ranks if name in rank.values]
        if len(values) == len(ranks) or (values and name == "watts"):
            figures[name] = together(values)
    # Not the sum of the ranks' own: between two epochs one waits for another in its step, of which
    # the other knows nothing.
    mean_seconds = float(rows[:, Column.SECONDS].mean())
    for name, column in _COUNTED.items():
        count = float(rows[:, column].sum())
        if count > 0:
            figures[name] = count / ranks_of_replica / mean_seconds
    steps = float(rows[:, Column.STEPS].max())
    joules = rows[:, Column.JOULES]
    if not np.isnan(joules).all():
        figures["joules_per_step"] = float(np.nansum(joules)) / steps
    flops, seconds = rows[:, Column.FLOPS], rows[:, Column.SECONDS]
    if not np.isnan(flops).any():
        figures["model_flops_per_second"] = float(np.sum(flops / seconds))
        peak = rows[:, Column.PEAK_FLOPS]
        if not np.isnan(peak).any():
            figures["model_flops_share"] = figures["model_flops_per_second"] / float(peak.sum())
    if rows[0, Column.NORMS]:
        figures["gradient_norm"] = math.sqrt(float(rows[:, Column.SQUARED_NORM].sum()))
    return figures


def means_of(rows: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The metrics that are means, over the rows of all ranks since the last sample.

    Args:
        rows: a row for each rank.
        names: of the metrics, in their order; none where the ranks have different ones.
    """
    rows = rows[rows[:, Column.STEPS] > 0]
    if len(set(rows[:, Column.METRIC_NAMES])) != 1:
        return {}
    totals = rows[:, len(Column) :].sum(axis=0)
    pairs = {name: totals[2 * i : 2 * i + 2] for i, name in enumerate(names)}
    return {name: float(total / count) for name, (total, count) in pairs.items() if count > 0}


def _least_collectives(rows: np.ndarray) -> float:
    """The least time that a rank spends in collectives: what they take once all are there."""
    each = [
        row[Column.COLLECTIVES] / row[Column.SPLIT_STEPS]
        for row in rows
        if row[Column.SPLIT_STEPS] > 0
    ]
    return min(each, default=0.0)


def _of_rank(row: np.ndarray, least: float) -> Mapping[str, float]:
    steps, seconds, split_steps = (
        row[Column.STEPS],
        row[Column.SECONDS],
        row[Column.SPLIT_STEPS],
    )
    values = {
        "step_seconds": seconds / steps,
        "rows_per_second": _or_nan(row[Column.ROWS]) / seconds,
        "tokens_per_second": _or_nan(row[Column.TOKENS]) / seconds,
        "sent_bytes": row[Column.SENT] / steps,
        "host_memory_bytes": row[Column.HOST_MEMORY],
        "host_memory_peak_bytes": row[Column.HOST_MEMORY_PEAK],
        "device_memory_bytes": row[Column.DEVICE_MEMORY],
        "device_memory_peak_bytes": row[Column.DEVICE_MEMORY_PEAK],
        "watts": row[Column.JOULES] / seconds,
    }
    if split_steps > 0:
        collectives = row[Column.COLLECTIVES] / split_steps
        values |= {
            "compute_seconds": row[Column.COMPUTE] / split_steps,
            "waiting_for_ranks_seconds": collectives - least,
            "exchange_seconds": least,
            "waiting_for_data_seconds": row[Column.DATA] / split_steps,
            "rest_seconds": row[Column.REST] / split_steps,
        }
    return {name: float(value) for name, value in values.items() if not math.isnan(value)}


def _or_nan(count: float) -> float:
    """A count; NaN where nothing was counted."""
    return count if count > 0 else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_COUNTED = {"rows_per_second": Column.ROWS, "tokens_per_second": Column.TOKENS}

# How the ranks' figures become the job's.
_TOGETHER: Mapping[str, Callable[[Sequence[float]], float]] = {
    "step_seconds": _mean,
    "compute_seconds": _mean,
    "waiting_for_ranks_seconds": _mean,
    "exchange_seconds": _mean,
    "waiting_for_data_seconds": _mean,
    "rest_seconds": _mean,
    "sent_bytes": _mean,
    "host_memory_bytes": max,
    "host_memory_peak_bytes": max,
    "device_memory_bytes": max,
    "device_memory_peak_bytes": max,
    "watts": sum,
}
