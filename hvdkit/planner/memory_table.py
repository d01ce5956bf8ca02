"""A plan of memory as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from hvdkit.graph.balance import size_text
from hvdkit.planner.memory_plan import RankMemory

_MOST_ROWS = 8


def memory_table(ranks: Sequence[RankMemory], limit: int, title: str = "Memory of a rank") -> Table:
    """A row for each stage; of a long pipeline for the first, the largest and the last.

    Args:
        ranks: what `plan_memory` returned.
        limit: bytes that a rank may use; stages that need more are marked.
        title: what stands above it.

    Example:
        >>> rich.print(memory_table(plan_memory(shape, degrees, training), rank_memory_limit()))
    """
    table = Table(title=title, caption=f"A rank may use {size_text(limit)}.")
    for column in ("stage", "parameters", "weights", "gradients", "optimizer", "activations"):
        table.add_column(column, justify="right")
    table.add_column("at most", justify="right", style="bold")
    for rank in _shown(ranks):
        sizes = (rank.weights, rank.gradients, rank.optimizer, rank.activations, rank.total)
        table.add_row(
            str(rank.stage),
            f"{rank.parameters:,}",
            *map(size_text, sizes),
            style="red" if rank.total > limit else None,
        )
    return table


def _shown(ranks: Sequence[RankMemory]) -> list[RankMemory]:
    if len(ranks) <= _MOST_ROWS:
        return list(ranks)
    largest = max(ranks, key=lambda rank: rank.total)
    chosen = {rank.stage: rank for rank in (ranks[0], largest, ranks[-1])}
    return [chosen[stage] for stage in sorted(chosen)]
