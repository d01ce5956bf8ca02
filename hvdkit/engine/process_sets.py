"""Process sets: some of the ranks, which Horovod has to know by a number."""

from __future__ import annotations

from collections.abc import Sequence

from hvdkit.engine import native
from hvdkit.engine.native import ProcessSet, global_process_set, require_initialized
from hvdkit.engine.objects import require_same
from hvdkit.engine.topology import size


def add_process_set(process_set: ProcessSet | Sequence[int]) -> ProcessSet:
    """Register a process set; every rank of the job calls it, in the same order.

    Args:
        process_set: a `ProcessSet`, or its ranks.

    Raises:
        ValueError: on every rank: a set with the same ranks exists, or a rank does not.
        RankMismatchError: on every rank, when the ranks give different sets.
    """
    require_initialized("hvd.add_process_set()")
    ranks = process_set.ranks if isinstance(process_set, ProcessSet) else sorted(process_set)
    if ranks is not None:
        require_same("the ranks of the new process set", ranks)
        missing = [r for r in ranks if not 0 <= r < size()]
        if missing or not ranks:
            raise ValueError(
                f"a job of {size()} ranks has no rank {missing}."
                if missing
                else "a process set needs at least one rank."
            )
    return native.add_process_set(process_set)


def process_set_of_ranks(ranks: Sequence[int]) -> ProcessSet:
    """The process set of some ranks: the one that exists, or a new one.

    Every rank of the job calls it, with the same ranks and in the same order.
    """
    require_initialized("a process set")
    ranks = sorted(ranks)
    if len(ranks) == size():
        return global_process_set
    process_set = ProcessSet(ranks)
    for number, members in native.registered_process_sets().items():
        if list(members) == ranks:
            process_set.process_set_id = number
            return process_set
    return add_process_set(process_set)


def unfilled_process_set() -> ProcessSet:
    """A process set whose ranks are found out later, see `fill`; it is not registered until then.

    It can be given to what is built now and talks to other ranks later.
    """
    return ProcessSet([])


def fill(process_set: ProcessSet, ranks: Sequence[int]) -> None:
    """Let a process set be that of some ranks; as `process_set_of_ranks` otherwise."""
    process_set.process_set_id = process_set_of_ranks(ranks).process_set_id
    process_set.ranks = sorted(ranks)


def is_known(process_set: ProcessSet) -> bool:
    """Whether Horovod knows a process set: not after `hvd.shutdown`, nor once it is removed."""
    known = native.registered_process_sets().get(process_set.process_set_id)
    return known is not None and sorted(known) == process_set.ranks


def remove_process_set(process_set: ProcessSet) -> bool:
    """Forget a process set; every rank calls it. Returns whether it was registered.

    Raises:
        RankMismatchError: on every rank, when the ranks remove different sets.
    """
    require_initialized("hvd.remove_process_set()")
    require_same("the process set to remove", [process_set.process_set_id])
    return bool(native.remove_process_set(process_set))
