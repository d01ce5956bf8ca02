"""The metrics of a model at one time: their states on this rank, and over all ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.engine import Sum, ops, topology
from hvdkit.engine.local_replicas import copies_of
from hvdkit.mesh.mesh import replicas
from hvdkit.mesh.variable import raw
from hvdkit.metrics.kinds import metrics_of, one_by_one, sums_over_ranks
from hvdkit.metrics.rows import rows_of


@dataclass(frozen=True)
class Result:
    """One number (or array) that a metric has.

    Attributes:
        name: as it stands in Keras's logs.
        metric: the metric that keeps the state.
        key: of the metric's result, if that is a dict; else None.
        value: on this rank.
    """

    name: str
    metric: Any
    key: str | None
    value: np.ndarray

    @property
    def sums(self) -> bool:
        """Whether the value over all ranks can be had from their states."""
        return sums_over_ranks(self.metric)

    @functools.cached_property
    def of_devices(self) -> np.ndarray:
        """The mean of the values on several local devices, as Keras has it in a step's logs."""
        variables = self.metric.variables
        copies = [copies_of(raw(variable)) for variable in variables]
        if not copies or min(map(len, copies)) == 1:
            return self.value
        whole = [tf.identity(variable.value) for variable in variables]
        each = []
        for states in zip(*copies, strict=True):
            _assign(variables, [tf.identity(state) for state in states])
            each.append(self.now())
        _assign(variables, whole)
        return np.asarray(np.mean(each, axis=0))

    def now(self) -> np.ndarray:
        """The value that belongs to the metric's present state."""
        result = self.metric.result()
        return np.asarray(result if self.key is None else result[self.key])


class Snapshot:
    """What a model's metrics are now, for a combination over ranks later.

    Args:
        model: the model, compiled, between two passes over data.
        kind: of the steps that have updated the metrics, see `hvdkit.metrics.rows`.

    Attributes:
        results: what the metrics of the model, and of models and layers inside it, have.
        last_rows: rows of this rank's last batch, None if it was not counted.
        total_rows: rows that this rank has seen in the pass.
    """

    def __init__(self, model: Any, kind: str) -> None:
        self.results = list(_results(model))
        rows = rows_of(model, kind)
        self.last_rows = None if rows is None else rows.last
        self.total_rows = 0.0 if rows is None else rows.total
        self._states = {
            id(result.metric): [tf.identity(v.value) for v in result.metric.variables]
            for result in self.results
        }

    def over_ranks(
        self, results: list[Result], compute: Callable[[], dict[str, Any]]
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Values over the rows of all ranks, which all of them ask for together.

        Args:
            results: which; their metrics' states can be added up.
            compute: what else to compute while the metrics hold these states.

        Returns:
            The values of the results, and what `compute` returned.
        """
        metrics = list({id(result.metric): result.metric for result in results}.values())
        variables = [v for metric in metrics for v in metric.variables]
        totals = [state for metric in metrics for state in self._states[id(metric)]]
        if totals and topology.process_set_size(replicas()) > 1:
            totals = ops.grouped_allreduce(
                totals, Sum, name="hvdkit.metrics", process_set=replicas()
            )
        own = [tf.identity(v.value) for v in variables]
        _assign(variables, totals)
        try:
            return [result.now() for result in results], compute()
        finally:
            _assign(variables, own)


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _results(model: Any) -> Iterable[Result]:
    in_logs = {id(metric) for metric in model.metrics}
    inner = {id(one) for metric in model.metrics for one in one_by_one(metric)}
    others = [m for m in metrics_of(model) if id(m) not in inner and _was_updated(m)]
    for metric in [*model.metrics, *others]:
        if id(metric) in in_logs and not one_by_one(metric):
            continue  # a list of none, or one that is not built
        yield from _results_of(metric)


def _results_of(metric: Any) -> Iterable[Result]:
    result = metric.result()
    if not isinstance(result, dict):
        yield Result(metric.name, metric, None, np.asarray(result))
        return
    singles = one_by_one(metric)
    if singles == [metric]:
        for key, value in result.items():
            yield Result(key, metric, key, np.asarray(value))
        return
    # Keras's list of metrics has an entry for each, in their order, which may have another name.
    for (name, value), single in zip(result.items(), singles, strict=True):
        inner = single.result()
        if isinstance(inner, dict):
            for key, part in inner.items():
                yield Result(key, single, key, np.asarray(part))
        else:
            yield Result(name, single, None, np.asarray(value))


def _was_updated(metric: Any) -> bool:
    return any(np.any(np.asarray(variable)) for variable in metric.variables)
