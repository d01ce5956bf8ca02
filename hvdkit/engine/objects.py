"""Python objects between ranks, pickled, and the checks that all ranks agree.

The names that stock Horovod gives these operations come from the object's type, so a
`broadcast_object` that passes None on the other ranks waits for ever; here they are fixed.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import numpy as np
import tensorflow as tf

from hvdkit.engine import ops
from hvdkit.engine.native import ProcessSet, global_process_set, require_initialized
from hvdkit.engine.tensorflow_errors import RankMismatchError
from hvdkit.engine.topology import process_set_ranks, rank


def _pickled(obj: Any) -> np.ndarray:
    return np.frombuffer(cloudpickle.dumps(obj), dtype=np.uint8)


def broadcast_object(
    obj: Any,
    root_rank: int = 0,
    session: None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Send a picklable object from `root_rank` to the other ranks.

    Args:
        obj: the object; only `root_rank`'s counts.
        root_rank: the (global) rank that sends.
        session: ignored; kept for scripts written for TensorFlow 1.
        name: kept for scripts written for Horovod; must be the same on all ranks.
        process_set: the ranks that take part.

    Returns:
        The object that `root_rank` gave; on `root_rank` the very object.
    """
    del session
    require_initialized("hvd.broadcast_object()")
    name = name or "hvdkit.broadcast_object"
    with tf.init_scope():
        data = _pickled(obj) if rank() == root_rank else np.zeros(0, np.uint8)
        length = ops.broadcast(
            tf.constant([data.size], tf.int64),
            root_rank,
            name=f"{name}.size",
            process_set=process_set,
        )
        if rank() != root_rank:
            data = np.zeros(int(length[0]), np.uint8)
        data = ops.broadcast(
            tf.constant(data), root_rank, name=f"{name}.data", process_set=process_set
        ).numpy()
    return obj if rank() == root_rank else pickle.loads(data.tobytes())


def broadcast_object_fn(
    root_rank: int = 0,
    session: None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Callable[[Any], Any]:
    """A function that does `broadcast_object` with these arguments."""
    del session

    def broadcast(obj: Any) -> Any:
        return broadcast_object(obj, root_rank, name=name, process_set=process_set)

    return broadcast


def allgather_object(
    obj: Any,
    session: None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[Any]:
    """Collect a picklable object of each rank.

    Args:
        obj: this rank's object.
        session: ignored; kept for scripts written for TensorFlow 1.
        name: kept for scripts written for Horovod; must be the same on all ranks.
        process_set: the ranks that take part.

    Returns:
        The objects in rank order.
    """
    del session
    require_initialized("hvd.allgather_object()")
    name = name or "hvdkit.allgather_object"
    with tf.init_scope():
        data = _pickled(obj)
        lengths = ops.allgather(
            tf.constant([data.size], tf.int64), name=f"{name}.size", process_set=process_set
        ).numpy()
        gathered = ops.allgather(
            tf.constant(data), name=f"{name}.data", process_set=process_set
        ).numpy()
    ends = np.cumsum(lengths)
    return [
        pickle.loads(gathered[end - length : end].tobytes())
        for end, length in zip(ends, lengths, strict=True)
    ]


def raise_everywhere(
    problem: str | None,
    error: type[Exception] = RankMismatchError,
    process_set: ProcessSet | None = global_process_set,
) -> None:
    """Raise one error on every rank if any rank has a problem; all ranks call it.

    Args:
        problem: what is wrong on this rank, or None.
        error: the class to raise; the first rank with a problem decides.
        process_set: the ranks that take part; None for this one alone.
    """
    if process_set is None:
        if problem is not None:
            raise error(problem)
        return
    reports = allgather_object(
        None if problem is None else (socket.gethostname(), problem, error),
        name="hvdkit.problems",
        process_set=process_set,
    )
    ranks = process_set_ranks(process_set)
    found = [(r, *report) for r, report in zip(ranks, reports, strict=True) if report is not None]
    if not found:
        return
    texts = dict.fromkeys(text for _, _, text, _ in found)
    lines = []
    for text in texts:
        where = ", ".join(f"{r} ({host})" for r, host, other, _ in found if other == text)
        lines.append(f"on rank {where}: {text}")
    raise found[0][3]("\n".join(lines))


def require_same(
    what: str,
    value: Sequence[Any],
    process_set: ProcessSet = global_process_set,
) -> None:
    """Raise `RankMismatchError` on every rank unless `value` is equal on all; all ranks call it.

    Args:
        what: what is compared, as the message names it, such as "the model's variables".
        value: a list of things that can be compared and printed; the first that differ are named.
        process_set: the ranks that take part.
    """
    everyone = allgather_object(list(value), name="hvdkit.require_same", process_set=process_set)
    reference = everyone[0]
    ranks = process_set_ranks(process_set)
    lines = []
    for r, other in zip(ranks, everyone, strict=True):
        if other == reference:
            continue
        if len(other) != len(reference):
            lines.append(f"rank {ranks[0]} has {len(reference)} of them, rank {r} has {len(other)}")
        pairs = zip(reference, other, strict=False)
        position, mine, theirs = next(
            ((i, a, b) for i, (a, b) in enumerate(pairs) if a != b), (None, None, None)
        )
        if position is not None:
            lines.append(
                f"number {position} is {mine} on rank {ranks[0]}, but {theirs} on rank {r}"
            )
    if lines:
        raise RankMismatchError(
            f"{what} differ between ranks: " + "; ".join(lines) + ". Every rank has to run the "
            "same script with the same model and settings."
        )
