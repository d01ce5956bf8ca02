"""The logs of a pass over data, for the rows of all ranks.

A step of Keras's returns the results of the model's metrics; one of the user's may return anything.
A log is known as the result of a metric by its value: on every rank it is what the metric of that
rank has. It becomes the metric's result over the rows of all ranks. What is no metric's result is
averaged, weighted by rows, and said.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hvdkit.engine import RankMismatchError, allgather_object, topology
from hvdkit.mesh.mesh import replicas
from hvdkit.metrics import say
from hvdkit.metrics.snapshot import Result, Snapshot
from hvdkit.metrics.values import alike, as_value, close, combine, plain

Path = tuple[str, ...]


@dataclass(frozen=True)
class _Report:
    """What a rank tells the others.

    Attributes:
        host: its name.
        others: logs that are put together by another call.
        values: of its logs: numbers, arrays, text or None.
        candidates: for each log, which of the model's results it is by its value; None if the
            rank can't say, since its last batch was padding.
        last_rows: weight of what was computed from the last batch.
        total_rows: weight of what was computed from all batches.
    """

    host: str
    others: list[Path]
    values: dict[Path, Any]
    candidates: dict[Path, list[int] | None]
    last_rows: float
    total_rows: float


def logs_of_pass(model: Any, logs: Any, kind: str) -> Any:
    """What Keras takes as the logs of a pass over data, over the rows of all ranks.

    Args:
        model: a compiled model that has seen the same number of batches on every rank.
        logs: what its last step returned.
        kind: of the step, see `hvdkit.metrics.rows`.

    Returns:
        The logs with the same structure and the same values on every rank. As in Keras they are
        the model's metrics if the step returned entries of their names.
    """
    if not isinstance(logs, dict):
        return logs
    results = model.get_metrics_result()
    named = set(logs) == set(results)
    return over_ranks(model, results if named else logs, Snapshot(model, kind), named=named)


def over_ranks(
    model: Any,
    logs: dict[str, Any],
    snapshot: Snapshot,
    *,
    named: bool = False,
    only_if_different: bool = False,
    others: Iterable[str] = (),
) -> dict[str, Any]:
    """The logs of all ranks together; all of them call it.

    Args:
        model: the model.
        logs: this rank's.
        snapshot: of the model's metrics, from when the pass over data ended.
        named: the logs are the results of the model's metrics, by their names.
        only_if_different: leave logs that are alike on all ranks as they are.
        others: names of logs for which the ranks that have them call this next.

    Raises:
        RankMismatchError: on every rank, when a log is missing on some; it names both.
    """
    leaves = _leaves(logs)
    values = {path: as_value(leaf) for path, leaf in leaves.items()}
    last = snapshot.last_rows
    # A device without rows had a padding row, which is in what the last step returned.
    devices = model.distribute_strategy.num_replicas_in_sync
    padded = last is not None and last < devices
    everyone = allgather_object(
        _Report(
            socket.gethostname(),
            [(name,) for name in others],
            values,
            {
                path: _candidates(path, value, snapshot.results, named, padded)
                for path, value in values.items()
            },
            snapshot.total_rows if last is None else last,
            snapshot.total_rows,
        ),
        name="hvdkit.logs",
    )
    _require_same_names(everyone)
    columns = {path: [report.values[path] for report in everyone] for path in leaves}
    if only_if_different and all(alike(column) for column in columns.values()):
        return logs
    sources = {
        path: _common([r.candidates[path] for r in everyone], _named(path, snapshot.results))
        for path in leaves
    }
    exact = _exact(model, snapshot, sources, named)
    new: dict[Path, Any] = {}
    for path, leaf in leaves.items():
        if path in exact:
            new[path] = exact[path]
            continue
        results = [snapshot.results[i] for i in sources[path]]
        of_all_batches = bool(results) or named
        weights = [r.total_rows if of_all_batches else r.last_rows for r in everyone]
        new[path] = leaf if alike(columns[path]) else combine(columns[path], weights)
        if results and topology.process_set_size(replicas()) > 1:
            say.averaged_metric(model, results[0].name)
        elif not alike(columns[path]):
            say.no_metric(model, "/".join(path), columns[path])
    for path in exact:
        say.one_number_a_batch(model, [snapshot.results[i] for i in sources[path]])
    whole: dict[str, Any] = _with_leaves(logs, new)
    return whole


def _exact(
    model: Any, snapshot: Snapshot, sources: dict[Path, list[int]], named: bool
) -> dict[Path, Any]:
    """The logs that follow from the metrics' states over all ranks."""
    results = snapshot.results
    wanted = {
        path: indices
        for path, indices in sources.items()
        if indices and all(results[i].sums for i in indices)
    }
    needed = sorted({i for indices in wanted.values() for i in indices})
    # A model may compute more from its metrics, in a get_metrics_result of its own.
    whole = named and all(result.sums for result in results)
    values, computed = snapshot.over_ranks(
        [results[i] for i in needed], model.get_metrics_result if whole else dict
    )
    of_result = dict(zip(needed, values, strict=True))
    exact = {path: plain(value) for path, value in _leaves(computed).items() if path in sources}
    for path, indices in wanted.items():
        first, *others = (of_result[i] for i in indices)
        if all(close(first, other) for other in others):  # else it may be either
            exact[path] = plain(first)
    return exact


def _candidates(
    path: Path, value: Any, results: list[Result], named: bool, padded: bool
) -> list[int] | None:
    """The results that a log may be: those of its name if there are any, else all it equals."""
    same_name = _named(path, results)
    if named:
        return same_name[-1:]
    if padded:
        return None
    equal = [i for i, result in enumerate(results) if close(value, result.of_devices)]
    return [i for i in equal if i in same_name] or equal


def _named(path: Path, results: list[Result]) -> list[int]:
    return [i for i, result in enumerate(results) if result.name == path[-1]]


def _common(candidates: list[list[int] | None], named: list[int]) -> list[int]:
    """What all ranks that can say something agree on; what has the log's name if none can."""
    known = [indices for indices in candidates if indices is not None]
    return [i for i in known[0] if all(i in other for other in known)] if known else named


def _require_same_names(reports: list[_Report]) -> None:
    problems = []
    named = [{*report.values, *report.others} for report in reports]
    for path in sorted(set().union(*named)):
        having = [r for r, names in enumerate(named) if path in names]
        if len(having) < len(reports):
            missing = [f"{r} ({one.host})" for r, one in enumerate(reports) if r not in having]
            problems.append(
                f"the metric {'/'.join(path)!r} exists on rank {', '.join(map(str, having))}, "
                f"but not on rank {', '.join(missing)}"
            )
    if problems:
        raise RankMismatchError(
            "; ".join(problems) + ". Metrics can be averaged only if every rank computes them."
        )


def _leaves(logs: Mapping[str, Any], path: Path = ()) -> dict[Path, Any]:
    leaves: dict[Path, Any] = {}
    for name, value in logs.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, (*path, str(name)))
        else:
            leaves[(*path, str(name))] = value
    return leaves


def _with_leaves(logs: Mapping[str, Any], leaves: dict[Path, Any], path: Path = ()) -> Any:
    return {
        name: _with_leaves(value, leaves, (*path, str(name)))
        if isinstance(value, Mapping)
        else leaves[(*path, str(name))]
        for name, value in logs.items()
    }
