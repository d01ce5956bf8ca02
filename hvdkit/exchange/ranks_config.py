"""The ranks of an exchange as plain data, for its config."""

from __future__ import annotations

from collections.abc import Sequence

from hvdkit.engine import ProcessSet, global_process_set, process_sets, topology


def plain_ranks(ranks: ProcessSet) -> list[int] | None:
    """The numbers of some ranks; None for all."""
    return topology.process_set_ranks(ranks) if ranks.process_set_id else None


def ranks_of(plain: Sequence[int] | None) -> ProcessSet:
    """The process set of `plain_ranks`; every rank calls it."""
    return process_sets.process_set_of_ranks(plain) if plain else global_process_set
