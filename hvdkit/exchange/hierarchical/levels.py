"""Where a rank stands: in a group of ranks with fast links, whose leader speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvdkit.engine import ProcessSet, allgather_object, logger, topology
from hvdkit.engine.hosts import ranks_by_host
from hvdkit.engine.process_sets import fill, is_known, process_set_of_ranks
from hvdkit.mesh.mesh import current_mesh

Groups = list[list[int]]


@dataclass(frozen=True)
class Levels:
    """The groups of the ranks of an exchange, as one of these ranks sees them.

    Attributes:
        groups: the ranks of each group; the first of a group is its leader.
        own: the group of this rank.
        inside: the process set of that group; None where this rank is alone, or there is one group.
        between: the process set of the leaders; not filled where there is one group.
    """

    groups: Groups
    own: list[int]
    inside: ProcessSet | None
    between: ProcessSet

    @property
    def ranks(self) -> int:
        """Number of ranks in all groups."""
        return sum(map(len, self.groups))

    @property
    def leader(self) -> int:
        """The leader of this rank's group."""
        return self.own[0]

    @property
    def is_leader(self) -> bool:
        """Whether it is this rank."""
        return topology.rank() == self.leader

    @property
    def still_known(self) -> bool:
        """Whether Horovod knows the process sets; alike on all ranks."""
        used = [self.between] if len(self.groups) > 1 else []
        return all(map(is_known, used if self.inside is None else [self.inside, *used]))


def find_levels(ranks: ProcessSet, given: Groups | None, between: ProcessSet) -> Levels:
    """Agree on groups, and register their process sets. All ranks of the job call it together.

    Args:
        ranks: those of this rank's exchange; other ranks may have one over other ranks.
        given: the groups of all ranks of the job; None for those of each host.
        between: a process set to be filled with the leaders.

    Raises:
        ValueError: on every rank: the groups are no groups of all ranks, or not the same on all.
    """
    everyone = allgather_object(
        (given, topology.process_set_ranks(ranks)), name="hvdkit.hierarchical"
    )
    for rank, (other, _) in enumerate(everyone):
        if other != everyone[0][0]:
            raise ValueError(
                f"groups of Hierarchical is {everyone[0][0]} on rank 0, and {other} on rank "
                f"{rank}: every rank has to give the same."
            )
    if given is not None and (problem := misfit(given, topology.size())):
        raise ValueError(problem)
    groups = ranks_by_host() if given is None else given
    # With a mesh the replicas of other shards have exchanges of their own, and all ranks have to
    # register all process sets, in one order.
    for others in sorted({tuple(of_exchange) for _, of_exchange in everyone}):
        _register(among(groups, others))
    found = among(groups, topology.process_set_ranks(ranks))
    own = next(group for group in found if topology.rank() in group)
    if len(found) > 1:
        fill(between, [group[0] for group in found])
    if topology.rank() == found[0][0]:
        logger.info("hvdkit: Hierarchical reduces inside of %s, and between their first.", found)
    alone = len(own) == 1 or len(found) == 1
    return Levels(found, own, None if alone else process_set_of_ranks(own), between)


def among(groups: Groups, ranks: Sequence[int]) -> Groups:
    """What groups have of some ranks; without those that have none of them."""
    found = [sorted(set(group) & set(ranks)) for group in groups]
    return sorted(group for group in found if group)


def misfit(groups: Groups, size: int) -> str | None:
    """Why lists of ranks are no groups of a number of ranks, in words; None if they are."""
    listed = [rank for group in groups for rank in group]
    twice = sorted({rank for rank in listed if listed.count(rank) > 1})
    unknown = sorted({rank for rank in listed if not 0 <= rank < size})
    missing = sorted(set(range(size)) - set(listed))
    for ranks, what in (
        (twice, "are in it more than once"),
        (unknown, f"are none of the {size} ranks of this job"),
        (missing, "are in no group"),
    ):
        if ranks:
            return f"groups={groups} of Hierarchical: ranks {ranks} {what}; each rank is in one."
    return "a group of Hierarchical has no ranks." if not all(groups) else None


def require_all_ranks(ranks: ProcessSet) -> None:
    """Refuse exchanges that not all ranks of the job have.

    Raises:
        NotImplementedError, ValueError: it says what to do.
    """
    if ranks.process_set_id is None:
        raise ValueError(
            "Hierarchical has two levels, so there is none inside of another: give groups= to one."
        )
    mesh = current_mesh()
    if mesh is not None and mesh.pipeline > 1:
        raise NotImplementedError(
            "Hierarchical does not go with a pipeline: all ranks register its process sets "
            "together at their first step, and a stage without trainable variables never comes to "
            "it. Use another aggregator, or hvd.Mesh(tensor=...) without pipeline=."
        )
    of_mesh = mesh is not None and mesh.data_set.process_set_id == ranks.process_set_id
    if ranks.process_set_id and not of_mesh:
        raise NotImplementedError(
            f"Hierarchical exchanges between all ranks of the job, and not within the process set "
            f"{topology.process_set_ranks(ranks)}: all ranks register its process sets together. "
            "Leave process_set out, or use another aggregator."
        )


def _register(groups: Groups) -> None:
    """Let Horovod know the groups and their leaders, where there are two levels."""
    if 1 < len(groups) < sum(map(len, groups)):
        for group in groups:
            if len(group) > 1:
                process_set_of_ranks(group)
        process_set_of_ranks([group[0] for group in groups])
