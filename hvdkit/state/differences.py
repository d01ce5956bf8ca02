"""What to say about variables, and layers, that differ between ranks."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hvdkit.engine import ProcessSet, allgather_object, topology
from hvdkit.mesh.variable import path_of
from hvdkit.state.outside_variables import described

NAMED = 3


@dataclass(frozen=True)
class Difference:
    """How the values of one variable differ between ranks.

    Attributes:
        name: the variable's path.
        largest: the largest absolute difference of an element; NaN where one is NaN or Inf.
        elements: how many elements differ.
        size: how many elements there are.
        minority: the ranks that do not hold the value that most ranks hold, and their hosts;
            empty where no value is held by more ranks than any other.
    """

    name: str
    largest: float
    elements: int
    size: int
    minority: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        amount = "by NaN or Inf" if np.isnan(self.largest) else f"by at most {self.largest:.3g}"
        who = _who(self.minority)
        return f"{self.name} {amount} in {self.elements} of {self.size} elements, {who}"


def find_differences(variables: Sequence[Any], process_set: ProcessSet) -> list[Difference]:
    """Compare the values of variables over ranks; all ranks call it with the same variables.

    Args:
        variables: those whose digests differ. The values travel, so give few of them.
        process_set: the ranks that take part.
    """
    ranks = topology.process_set_ranks(process_set)
    host = socket.gethostname()
    differences = []
    for variable in variables:
        own = np.asarray(keras.ops.convert_to_numpy(variable))
        everyone = allgather_object((host, own), name="hvdkit.differences", process_set=process_set)
        hosts, values = zip(*everyone, strict=True)
        differences.append(compare(path_of(variable), ranks, hosts, values))
    return differences


def compare(
    name: str, ranks: Sequence[int], hosts: Sequence[str], values: Sequence[np.ndarray]
) -> Difference:
    """The difference between the values that ranks hold of one variable.

    Args:
        name: the variable's path.
        ranks: the ranks.
        hosts: the host of each rank.
        values: the value on each rank, of one shape and type.
    """
    groups = _groups([value.tobytes() for value in values])
    minority = _minority(groups)
    reference = _numbers(values[groups[0][0]])
    others = np.stack([_numbers(values[group[0]]) for group in groups[1:]])
    unequal = (others != reference) & ~(np.isnan(others) & np.isnan(reference))
    with np.errstate(invalid="ignore"):
        distance = np.abs(others - reference)[unequal]
    return Difference(
        name=name,
        largest=float(distance.max()) if distance.size else 0.0,
        elements=int(unequal.any(axis=0).sum()),
        size=int(values[0].size),
        minority=tuple((ranks[position], hosts[position]) for position in minority),
    )


def _groups(values: Sequence[Any]) -> list[list[int]]:
    """The positions of equal values, the largest group first."""
    holders: dict[Any, list[int]] = {}
    for position, value in enumerate(values):
        holders.setdefault(value, []).append(position)
    return sorted(holders.values(), key=len, reverse=True)


def _minority(groups: Sequence[Sequence[int]]) -> list[int]:
    """The positions outside of the largest group; none where two are as large."""
    tied = len(groups) > 1 and len(groups[0]) == len(groups[1])
    return [] if tied else sorted(position for group in groups[1:] for position in group)


def _who(minority: Sequence[tuple[int, str]]) -> str:
    ranks = ", ".join(f"{rank} ({host})" for rank, host in minority)
    return f"rank {ranks} in the minority" if ranks else "no value has a majority of the ranks"


def _numbers(value: np.ndarray) -> np.ndarray:
    wide = np.complex128 if value.dtype.kind == "c" else np.float64
    return np.asarray(value, dtype=wide)


def find_other_layers(model: Any, process_set: ProcessSet, *, costly: bool = True) -> str | None:
    """Compare what layers compute with outside of variables; all ranks call it.

    Args:
        model: the model.
        process_set: the ranks that take part.
        costly: see `described`.

    Returns:
        The layers that differ and the ranks in the minority, in words, the same on all ranks; None
        if all are alike.
    """
    ranks = topology.process_set_ranks(process_set)
    own = described(model, costly=costly)
    everyone = allgather_object(
        (socket.gethostname(), own), name="hvdkit.other_layers", process_set=process_set
    )
    hosts, found = zip(*everyone, strict=True)
    if all([c for _, c in one] == [c for _, c in found[0]] for one in found):
        return None
    if len(set(map(len, found))) > 1:
        counts = ", ".join(f"{len(one)} on rank {r}" for r, one in zip(ranks, found, strict=True))
        return f"their number is {counts}"
    texts = []
    for one in zip(*found, strict=True):
        groups = _groups([checksum for _, checksum in one])
        if len(groups) > 1:
            where = [(ranks[position], hosts[position]) for position in _minority(groups)]
            texts.append(f"{one[0][0]}, {_who(where)}")
    more = len(texts) - NAMED
    return "; ".join(texts[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def summary(differences: Sequence[Difference], count: int) -> str:
    """One line: the differences, and how many more there are.

    Args:
        differences: the first ones.
        count: of all variables that differ.
    """
    text = "; ".join(map(str, differences))
    more = count - len(differences)
    return f"{text}; and {more} more" if more else text
