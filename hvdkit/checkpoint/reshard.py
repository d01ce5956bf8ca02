"""State that belongs to one rank, for a job with another number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.variables import (
    ACCUMULATORS,
    DIFFERING,
    DIFFERING_SLOTS,
    OWN_EXCHANGE,
    RESIDUALS,
    SEEDS,
    STATE,
    kind_of,
)
from hvdkit.errors import CheckpointError

# What becomes of the arrays of a group; the others are taken from rank r % (old number of ranks).
_AVERAGED = (STATE, ACCUMULATORS, RESIDUALS, DIFFERING, DIFFERING_SLOTS)
_SUMMED = ("metrics",)

# Under this name a rank's file lists the weights in "state" that are its own.
KEPT = "kept_by_rank"


def reshard(rank: int, old_ranks: int, read: Callable[[int], Contents]) -> Contents:
    """What a rank starts from when fewer or more ranks wrote the checkpoint.

    - Moving statistics, gradients that are accumulated but not applied yet, residuals, and weights
      that an exchange lets differ, with their slots: the mean over the old ranks. The ranks average
      these themselves sooner or later, so the mean keeps what that will give.
    - Running metrics are sums: rank 0 takes the sum over the old ranks, the others zeros.
    - Seeds: a rank that was there keeps its own; a new one derives its own from rank 0's and its
      number, as `BroadcastGlobalVariablesCallback` does.
    - Weights that are each rank's own, and other things: those of rank r % (old number of ranks).

    Args:
        rank: the new rank; of a sharded model, the new replica.
        old_ranks: how many ranks, or replicas, wrote the checkpoint.
        read: the contents of an old rank's file.

    Raises:
        CheckpointError: an exchange keeps something on each rank that nobody can divide anew.
    """
    files = [read(old) for old in range(old_ranks)]
    template = files[rank % old_ranks]
    if any(_kind(name) == OWN_EXCHANGE for name in template.arrays):
        raise CheckpointError(
            f"the checkpoint was written by {old_ranks} ranks, on each of which the optimizer's "
            f"exchange keeps state of its own: go on with {old_ranks} ranks."
        )
    kept = {f"{STATE}/{position}" for position in template.values.get(KEPT, [])}
    arrays = {
        name: template.arrays[name]
        if name in kept
        else _array(name, [file.arrays[name] for file in files], rank)
        for name in template.arrays
        if all(name in file.arrays for file in files)
    }
    return Contents(arrays, template.values)


def _array(name: str, old: Sequence[np.ndarray], rank: int) -> np.ndarray:
    kind = _kind(name)
    first = old[0]
    floating = first.dtype.kind not in "biu"
    if kind in _AVERAGED and floating:
        mean = np.mean([array.astype(np.float64) for array in old], axis=0)
        return np.asarray(mean, first.dtype)
    if kind in _SUMMED:
        total = np.sum([array.astype(np.float64) for array in old], axis=0)
        return np.asarray(total if rank == 0 else np.zeros_like(first), first.dtype)
    if kind == SEEDS and rank >= len(old):
        seed, counter = first.tolist()
        derived = np.random.SeedSequence([seed, rank]).generate_state(1)[0]
        return np.array([derived, counter], first.dtype)
    return old[rank % len(old)]


def _kind(name: str) -> str:
    return kind_of(name.split("/")[0])  # "accumulators of critic.optimizer"
