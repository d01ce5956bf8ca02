"""Groups for the ranks of a job, and process sets that do not stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import hvdkit as hvd
from hvdkit.engine.native import registered_process_sets

Groups = list[list[int]]

_GROUPS: dict[int, list[Groups]] = {
    3: [[[0, 1], [2]], [[0], [1, 2]]],
    4: [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[0, 3], [1, 2]]],
    8: [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0], [1, 2, 3, 4, 5], [6, 7]]],
}


def all_groups() -> list[Groups]:
    """Groups of several ranks and of one, equal and unequal."""
    return _GROUPS[hvd.size()]


def some_groups() -> Groups:
    """Two groups, of which each has a rank that is no leader if there are four ranks."""
    return all_groups()[0]


def own_group(groups: Groups) -> list[int]:
    """The group of this rank."""
    return next(group for group in groups if hvd.rank() in group)


def is_leader(groups: Groups) -> bool:
    """Whether this rank is the first of its group."""
    return own_group(groups)[0] == hvd.rank()


@contextmanager
def forgetting_process_sets() -> Iterator[None]:
    """Remove the process sets that are made inside; every rank comes here.

    Not after an error, which one rank may have alone: these ranks end then.
    """
    before = set(registered_process_sets())
    yield
    for number in sorted(set(registered_process_sets()) - before):
        made = hvd.ProcessSet(registered_process_sets()[number])
        made.process_set_id = number
        hvd.remove_process_set(made)
