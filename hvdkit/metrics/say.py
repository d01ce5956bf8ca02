"""What is said of logs that are not those of one process: once, by name, on rank 0."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.engine import logger, topology
from hvdkit.metrics.kinds import takes_no_mean, takes_one_number_a_batch
from hvdkit.metrics.snapshot import Result
from hvdkit.metrics.values import can_be_averaged


def averaged_metric(model: Any, name: str) -> None:
    """A metric whose states are not added up."""
    _once(
        model,
        name,
        "the metric %s is averaged over ranks, weighted by rows, which may differ from its value "
        "over all rows. If adding up its state over ranks is right, set "
        "hvd_sums_over_ranks = True on its class.",
    )


def no_metric(model: Any, name: str, values: list[Any]) -> None:
    """A log that is no metric's result."""
    if can_be_averaged(values):
        _once(
            model,
            name,
            "the log %s is no metric's result but a number of the last batch: it is averaged over "
            "ranks, weighted by rows, which is exact for a mean over rows, such as a loss. Return "
            "the result of a keras.metrics.Metric for a value over all rows.",
        )
    else:
        _once(
            model,
            name,
            "the log %s differs between ranks and can't be averaged (text, or arrays of "
            "different shapes): all ranks get rank 0's.",
        )


def one_number_a_batch(model: Any, results: list[Result]) -> None:
    """A metric whose function, or whoever updates it, makes one number of a batch."""
    for result in results:
        metric = result.metric
        if not takes_one_number_a_batch(metric):
            continue
        if isinstance(metric, keras.metrics.Sum):
            _once(
                model,
                result.name,
                "the metric %s is given one number for a batch, and the ranks' are added up, which "
                "is exact if it is a sum over rows.",
            )
        elif takes_no_mean(metric) and not isinstance(metric, keras.metrics.MeanMetricWrapper):
            _once(
                model,
                result.name,
                "the metric %s is given a number of a batch that is no mean over rows (a ratio, a "
                "root, ...), and the ranks' are averaged, weighted by rows. Use a "
                "keras.metrics.Metric that keeps sums, such as keras.metrics.F1Score.",
            )
        elif isinstance(metric, keras.metrics.MeanMetricWrapper) and not _is_mean_over_rows(metric):
            _once(
                model,
                result.name,
                "the function of the metric %s returns one number for all rows of a batch, and the "
                "ranks' are averaged, weighted by rows, which is exact for a mean over rows, but "
                "not for ratios such as F1. Let it return a number for each row, or use a "
                "keras.metrics.Metric that keeps sums, such as keras.metrics.F1Score.",
            )


def _is_mean_over_rows(metric: Any) -> bool:
    reduction = getattr(metric._fn, "reduction", None)
    return isinstance(metric._fn, keras.losses.Loss) and reduction in (
        "sum_over_batch_size",
        "mean",
    )


def _once(model: Any, name: str, text: str) -> None:
    said = vars(model).setdefault("_hvdkit_said_logs", set())
    if name not in said and topology.rank() == 0:
        logger.warning("hvdkit: " + text, name)
    said.add(name)
