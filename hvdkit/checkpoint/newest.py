"""The checkpoint that all ranks go back to."""

from __future__ import annotations

from hvdkit.checkpoint.store import Manifest, Store
from hvdkit.engine import broadcast_object, logger, raise_everywhere, topology
from hvdkit.errors import CheckpointError


def newest_for_all(store: Store) -> Manifest | None:
    """The newest whole checkpoint, chosen by rank 0, the same on every rank; None: none yet.

    Those after it are damaged: rank 0 names them in a warning, and renames them.

    Raises:
        CheckpointError: on every rank: there are checkpoints, but none is whole.
    """
    found: Manifest | None
    problems: list[str]
    found, problems = store.newest_whole() if topology.rank() == 0 else (None, [])
    found, problems = broadcast_object((found, problems), name="hvdkit.checkpoint.newest")
    if problems and found is None:
        raise CheckpointError(
            f"no checkpoint in {store.directory} is whole: {' '.join(problems)} "
            "Name another folder, or empty this one to start from the beginning."
        )
    if problems and found is not None:
        raise_everywhere(_set_aside(store, found, problems), CheckpointError)
    return found


def _set_aside(store: Store, whole: Manifest, problems: list[str]) -> str | None:
    if topology.rank() != 0:
        return None
    logger.warning(
        "hvdkit: damaged checkpoints are left out, and renamed to broken-...: %s Going on from %s.",
        " ".join(problems),
        whole.path,
    )
    try:
        store.set_aside(whole.path)
    except OSError as error:
        return f"a damaged checkpoint can't be renamed: {error}"
    return None
