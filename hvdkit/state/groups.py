"""Which ranks hold the same variables, and who sends in each group of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hvdkit.engine import ProcessSet, global_process_set, topology
from hvdkit.exchange.tracked import Tracked
from hvdkit.mesh.mesh import current_mesh
from hvdkit.optimizers.composition import chains, mesh_of


def ranks_of_optimizer(optimizer: Any) -> ProcessSet | None:
    """The ranks that an optimizer reduces over; None if it is not distributed."""
    found = chains(optimizer)
    return found[0].ranks if found else None


def within(ranks: ProcessSet, others: ProcessSet) -> bool:
    """Whether some ranks are all among others."""
    return set(topology.process_set_ranks(ranks)) <= set(topology.process_set_ranks(others))


@dataclass(frozen=True)
class Alike:
    """Ranks that hold the same variables.

    Attributes:
        ranks: the ranks.
        unsharded_only: whether they hold different shards of variables that are sharded.
    """

    ranks: ProcessSet
    unsharded_only: bool = False

    @property
    def compares(self) -> bool:
        """Whether this rank is one of several."""
        member = topology.in_process_set(self.ranks)
        return member and topology.process_set_size(self.ranks) > 1

    @property
    def first(self) -> int:
        """The first of the ranks."""
        return topology.process_set_ranks(self.ranks)[0]

    def among(self, rows: Iterable[Tracked]) -> list[Tracked]:
        """Those of some rows that these ranks hold alike."""
        return [row for row in rows if not (self.unsharded_only and row.is_sharded)]


def alike(optimizer: Any) -> list[Alike]:
    """The groups of ranks, this one among them, that hold the same variables; the smallest first.

    Without a mesh there is one: the ranks that the optimizer reduces over, or all.
    """
    process_set = ranks_of_optimizer(optimizer)
    if process_set is None:
        return [Alike(global_process_set)]
    mesh, replicas = mesh_of(optimizer), Alike(process_set)
    return [replicas] if mesh is None else [Alike(mesh.tensor_set, unsharded_only=True), replicas]


def senders(root_rank: int) -> Iterator[tuple[Alike, int]]:
    """The groups of ranks that hold the same variables, and who sends in each of them.

    With a mesh the values go in each tensor group from the rank that stands where the root does in
    its own to the rest, and then from the root's replica to the others.

    Args:
        root_rank: the rank whose values all are to have.
    """
    mesh = current_mesh()
    if mesh is None:
        yield Alike(global_process_set), root_rank
        return
    replica, _, tensor_index = mesh.indices_of(root_rank)
    if mesh.tensor > 1:
        sender = mesh.rank_at(mesh.data_index, mesh.pipeline_index, tensor_index)
        yield Alike(mesh.tensor_set, unsharded_only=True), sender
    if mesh.data > 1:
        sender = mesh.rank_at(replica, mesh.pipeline_index, mesh.tensor_index)
        yield Alike(mesh.data_set), sender
