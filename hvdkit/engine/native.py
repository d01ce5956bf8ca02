"""Horovod itself. Nothing outside `hvdkit.engine` imports it, and the engine does so here."""

from __future__ import annotations

from typing import Any

from hvdkit.engine.versions import load_horovod
from hvdkit.errors import NotInitializedError

mpi_ops: Any = load_horovod()
library: Any = mpi_ops.MPI_LIB

from horovod.common.process_sets import (  # noqa: E402  (only after the checks above)
    ProcessSet,
    add_process_set,
    global_process_set,
    remove_process_set,
)

Average: int = mpi_ops.Average
Sum: int = mpi_ops.Sum
Adasum: int = mpi_ops.Adasum
Min: int = mpi_ops.Min
Max: int = mpi_ops.Max
Product: int = mpi_ops.Product

OP_NAMES = {
    Average: "Average",
    Sum: "Sum",
    Adasum: "Adasum",
    Min: "Min",
    Max: "Max",
    Product: "Product",
}


def require_initialized(what: str) -> None:
    """Raise `NotInitializedError` unless `init()` has been called."""
    if not mpi_ops.is_initialized():
        raise NotInitializedError(what)


def registered_process_sets() -> dict[int, list[int]]:
    """The ranks of each process set that Horovod knows, by its number."""
    found: dict[int, list[int]] = mpi_ops._basics._get_process_set_ids_and_ranks()
    return found


__all__ = [
    "OP_NAMES",
    "Adasum",
    "Average",
    "Max",
    "Min",
    "ProcessSet",
    "Product",
    "Sum",
    "add_process_set",
    "global_process_set",
    "library",
    "mpi_ops",
    "registered_process_sets",
    "remove_process_set",
    "require_initialized",
]
