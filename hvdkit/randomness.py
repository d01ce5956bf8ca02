"""Random numbers: what must be the same on all ranks is, and what must differ does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdkit import patches
from hvdkit.engine import require_initialized, require_same, topology
from hvdkit.keras_internals import make_default_seed
from hvdkit.mesh.mesh import replica_of
from hvdkit.patches import Patch

_seed: int | None = None


def set_random_seed(seed: int) -> int:
    """Seed a training; every rank calls it, with the same seed, before it builds the model.

    The same on all ranks: Python's, NumPy's and TensorFlow's global generators, so that the
    initial weights of Keras's layers are equal, and the order of data from `hvd.shard`, whose
    default seed this becomes. Different on each rank: dropout and Keras's augmentation layers, by
    the seeds of Keras's seed generators that have none of their own.

    With a mesh (`hvd.set_mesh` comes before this), what differs between ranks differs between
    replicas of the model: ranks that divide a model between them draw alike.

    Call `hvd.init(deterministic=True)` before it for runs that are equal to the bit.

    Args:
        seed: 0 to 2^32 - 1.

    Returns:
        A seed that is this rank's own, for random numbers of your own that have to differ
        between ranks, as in `rng = np.random.default_rng(own)`. On rank 0 it is `seed`.

    Raises:
        NotInitializedError: `init` has not been called.
        ValueError: on every rank: the seed is no integer of this range.
        RankMismatchError: on every rank, when the ranks give different seeds.

    Example:
        >>> own = hvd.set_random_seed(1)
        >>> model = build_model()
        >>> train = hvd.shard((x, y), batch_size=64)
    """
    global _seed
    require_initialized("hvd.set_random_seed()")
    if topology.size() > 1:
        require_same("the random seeds", [seed])
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"a seed is an integer from 0 to 2^32 - 1, not {seed!r}.")
    _seed = seed
    patches.install(SEEDS_BY_RANK)
    keras.utils.set_random_seed(seed)
    replica = replica_of(topology.rank())
    return seed if replica == 0 else rank_seed(seed, replica)


def shared_seed() -> int | None:
    """The seed that `set_random_seed` was given, or None."""
    return _seed


def rank_seed(seed: int, rank: int) -> int:
    """The seed that follows from `seed` for a rank other than the one it comes from."""
    return int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])


def seed_generator_init(
    original: Any, generator: Any, seed: int | None = None, *args: Any, **kwargs: Any
) -> None:
    """What `keras.random.SeedGenerator` does at first: with `set_random_seed`, by rank.

    All ranks draw the same number from Python's generator, as Keras does, so the initial weights
    that are drawn after it stay equal.
    """
    replica = replica_of(topology.rank()) if _seed is not None else 0
    if seed is not None or replica == 0:
        original(generator, seed, *args, **kwargs)
        return
    drawn = make_default_seed()
    original(generator, rank_seed(drawn, replica), *args, **kwargs)
    generator._initial_seed = None


SEEDS_BY_RANK = Patch(
    keras.random.SeedGenerator,
    "__init__",
    seed_generator_init,
    "seeds that nobody has chosen differ between the replicas of a model",
)
