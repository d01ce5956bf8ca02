"""What a collective that failed says, in the user's words."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from hvdkit.descriptions import dtype_and_shape
from hvdkit.engine.native import ProcessSet, global_process_set, mpi_ops
from hvdkit.engine.tensorflow_errors import CollectiveError, RankMismatchError
from hvdkit.engine.topology import process_set_ranks, rank
from hvdkit.errors import HvdkitError
from hvdkit.watch.activity import activity
from hvdkit.watch.step_times import step_times

# The second is what Gloo's messages begin with: the file that found the connection broken.
_LOST_RANK = re.compile(r"Horovod has been shut down|[\w./-]*/gloo/[\w./-]*:\d+\]")
_MISMATCH = re.compile(r"Mismatched [^\n]*?\.(?=\s|$)")
# Horovod answers for a rank that has joined in allreduces only.
_JOINED = re.compile(r"\w+ is not supported with Join")
_NODE = re.compile(r"node ([\w./-]+)")
_COMPARING = "allgather 'hvdkit.mismatch'"


@contextlib.contextmanager
def explained(
    what: str,
    tensors: Sequence[tf.Tensor] = (),
    detail: str = "",
    process_set: ProcessSet = global_process_set,
) -> Iterator[list[tf.Tensor]]:
    """Turn TensorFlow's error about a collective into one that says what to do.

    While inside, the other ranks are told that this one waits in the collective. The block adds
    the results to the list that it gets, so that a graph can count them as finished.

    Args:
        what: the collective, as the message names it.
        tensors: what this rank gives to it.
        detail: what else has to be the same on all ranks.
        process_set: the ranks that take part.

    Raises:
        RankMismatchError: on every rank, when the ranks gave different things.
        CollectiveError: another rank left the job, or did not come in time.
    """
    started = time.monotonic()
    try:
        with _counted(what, tensors, process_set) as results:
            yield results
    except HvdkitError:
        raise
    except tf.errors.OpError as error:
        if mismatch := _MISMATCH.search(error.message):
            mine = ", ".join(dtype_and_shape(t.dtype, t.shape) for t in tensors)
            call = f"{what} of {mine} {detail}".strip()
            raise _mismatch(call, mismatch[0], process_set) from None
        if translated := _translated(error, what, time.monotonic() - started):
            raise translated from None
        raise


@contextlib.contextmanager
def _counted(
    what: str, tensors: Sequence[tf.Tensor], process_set: ProcessSet
) -> Iterator[list[tf.Tensor]]:
    results: list[tf.Tensor] = []
    ranks = process_set.ranks if process_set.process_set_id else None
    if tf.executing_eagerly():
        # What waits in another thread, as one that reads data, holds up nothing else.
        holds_up = threading.current_thread() is threading.main_thread()
        waits = activity.doing(what, ranks, collective=holds_up)
        with (
            waits if activity.on else contextlib.nullcontext(),
            step_times.span(what, sum(map(_bytes_of, tensors))),
        ):
            yield results
    elif tf.inside_function():
        # The counters let TensorFlow run the collective in each rank's graph, whether or not its
        # result is used there, and one after another where functions that are called hold some:
        # they may have the same names, also on one rank.
        noted = step_times.begins(what, tensors)
        with tf.control_dependencies([activity.enters(tensors, what, ranks)]):
            yield results
        results[:] = activity.leaves(results, ranks)
        step_times.ends(noted, results)
    else:  # a graph of TensorFlow 1, which has no variables of ours
        yield results


def _bytes_of(tensor: tf.Tensor) -> int:
    return int(tensor.shape.num_elements() or 0) * int(tensor.dtype.size)


@contextlib.contextmanager
def explained_in_graph(what: str, progress: Callable[[], str] | None = None) -> Iterator[None]:
    """`explained` for a graph that holds collectives, such as a training step.

    Args:
        what: what runs the graph, as the message names it.
        progress: what runs at a moment, for ranks that wait for this one; called by any thread.

    Raises:
        RankMismatchError: on every rank, when the ranks gave different things.
        CollectiveError: another rank left the job, or did not come in time.
    """
    try:
        with activity.inside(progress or (lambda: what)):
            yield
    except HvdkitError:
        raise
    except tf.errors.OpError as error:
        node = _NODE.search(error.message)
        inside = f"{what} (in {node[1]})" if node else what
        if mismatch := _MISMATCH.search(error.message):
            raise RankMismatchError(f"{inside}: the ranks differ. {mismatch[0]}") from None
        if translated := _translated(error, inside, None):
            raise translated from None
        raise


def _translated(error: tf.errors.OpError, what: str, waited: float | None) -> HvdkitError | None:
    """What happened to another rank, if that is why `what` has failed."""
    if _JOINED.search(error.message):
        return _joined(what)
    if _LOST_RANK.search(error.message):
        return _ended(what, waited)
    return None


def _mismatch(mine: str, reason: str, process_set: ProcessSet) -> HvdkitError:
    """Horovod sends a mismatch to every rank, so here they can tell each other what they gave."""
    started = time.monotonic()
    try:
        everyone = _texts(mine, process_set)
    except tf.errors.OpError as error:
        if translated := _translated(error, _COMPARING, time.monotonic() - started):
            return translated
        raise
    calls = "; ".join(
        f"rank {r} calls {call}"
        for r, call in zip(process_set_ranks(process_set), everyone, strict=True)
    )
    return RankMismatchError(f"the ranks differ in a collective: {calls}. {reason}")


def _texts(mine: str, process_set: ProcessSet) -> list[str]:
    """A text of each rank, by Horovod itself: hvdkit's collectives explain their errors here."""
    data = np.frombuffer(mine.encode(), np.uint8)
    size = tf.constant([data.size], tf.int64)
    with tf.init_scope(), _counted(_COMPARING, [], process_set):
        sizes = mpi_ops.allgather(size, name="hvdkit.mismatch.size", process_set=process_set)
        texts = mpi_ops.allgather(
            tf.constant(data), name="hvdkit.mismatch.data", process_set=process_set
        )
    cuts = np.cumsum(sizes.numpy())[:-1]
    return [part.tobytes().decode() for part in np.split(texts.numpy(), cuts)]


def _joined(what: str) -> RankMismatchError:
    return RankMismatchError(
        f"rank {rank()} could not do {what}: another rank has no more data (it called hvd.join, or "
        "its epoch is over), and Horovod answers for it in allreduces only. Give all ranks equally "
        "many batches."
    )


def _ended(what: str, waited: float | None) -> HvdkitError:
    limit = float(os.environ.get("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", 0))
    if waited is not None and 0 < limit <= waited:
        return CollectiveError(
            f"rank {rank()} waited {waited:.0f} s in {what} for ranks that did not come; the "
            f"limit is {limit:.0f} s (stall_timeout of hvd.init). Rank 0's log names the missing "
            "ranks. Every rank has to call the same collectives in the same order."
        )
    late = (
        f", or a rank was missing from a collective for longer than {limit:.0f} s (stall_timeout "
        "of hvd.init; rank 0's log names it)"
    )
    return CollectiveError(
        f"rank {rank()} could not finish {what}: another rank has left the job (its output says "
        f"why; every rank has to call the same collectives){late if limit > 0 else ''}."
    )
