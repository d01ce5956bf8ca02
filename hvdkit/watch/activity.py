"""What this rank's main thread is doing, as far as other ranks wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_v2_func_graphs import (
    CondBranchFuncGraph,
    WhileBodyFuncGraph,
    WhileCondFuncGraph,
)
from tensorflow.python.ops.resource_variable_ops import ResourceVariable

from hvdkit.watch.slices import CHECKPOINTS, notes

_CONTROL_FLOW = (CondBranchFuncGraph, WhileBodyFuncGraph, WhileCondFuncGraph)

# More names than these make a message longer, and no clearer.
_NAMES_SHOWN = 3


def own_variable(value: Any, dtype: tf.DType) -> tf.Variable:
    """A variable of hvdkit's own, which a function that is being traced does not take for its own.

    TensorFlow refuses those in all traces but the first, also in a `tf.init_scope`.
    """
    return ResourceVariable(value, dtype=dtype, trainable=False)


@dataclass
class GraphMarks:
    """How many collectives of a set of ranks graphs have begun and finished on this rank.

    A graph runs without Python, so it counts in variables.

    Attributes:
        entered: collectives whose inputs this rank has computed.
        left: collectives that are done.
        names: the operations that count here.
    """

    entered: Any
    left: Any
    names: list[str] = field(default_factory=list)

    def described(self) -> str:
        """The names, shortened."""
        more = len(self.names) - _NAMES_SHOWN
        return ", ".join(self.names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Doing:
    """What the main thread waits in: see `Activity.doing`."""

    what: str | None = None
    ranks: Sequence[int] | None = None
    patient: bool = False
    collective: bool = False


class Activity:
    """What one rank is doing; its main thread writes, its watching thread reads.

    Attributes:
        on: whether anybody wants to know.
        changed: called where other ranks have to know at once.
    """

    def __init__(self) -> None:
        self.on = False
        self.changed: Callable[[], None] = lambda: None
        self._doing = Doing()
        self._inside: Callable[[], str] | None = None
        self._count = 0
        self._pauses: list[str] = []
        self._graphs: dict[tuple[int, ...] | None, GraphMarks] = {}

    def begin(self) -> None:
        """Start to count."""
        self.on = True
        # Made here, outside any strategy's scope, which would make mirrored variables of them.
        self._marks(None)

    def end(self) -> None:
        """Count no longer."""
        self.on = False
        self.changed = lambda: None

    @contextlib.contextmanager
    def doing(
        self,
        what: str,
        ranks: Sequence[int] | None,
        *,
        patient: bool = False,
        collective: bool = False,
    ) -> Iterator[None]:
        """While inside, the main thread waits for others of `ranks` (None for all).

        Args:
            what: the collective, in words that begin with its kind; or what else it waits in.
            ranks: the ranks that have to take part.
            patient: whether they may come as late as they like, as long as they live.
            collective: whether it is one, which ends for all of them or for none.
        """
        before, self._doing = self._doing, Doing(what, ranks, patient, collective)
        try:
            yield
        finally:
            self._doing = before
            self._count += 1

    @contextlib.contextmanager
    def inside(self, what: Callable[[], str]) -> Iterator[None]:
        """While inside, the collectives in graphs are those of what `what` then says."""
        before, self._inside = self._inside, what
        try:
            yield
        finally:
            self._inside = before

    def enters(
        self, inputs: Sequence[tf.Tensor], name: str, ranks: Sequence[int] | None
    ) -> tf.Operation:
        """Let the graph count a collective, such as "sum 'a'", as begun when its inputs exist.

        Returns:
            The operation that counts.
        """
        marks = self._marks(ranks)
        scope = tf.get_current_name_scope()
        absolute = not scope or "/" in name  # such as the bucket of an optimizer
        full_name = name if absolute else name.replace("'", f"'{scope}/", 1)
        # What hvdkit compares for itself is not what somebody looks for in a script.
        if full_name not in marks.names and "'hvdkit" not in name:
            marks.names.append(full_name)
        calls = _calls_that_count(marks.entered)
        with tf.control_dependencies([*inputs, *calls]):
            # Else the collectives of a function would begin in the order in which they were made.
            return written_by_graph(
                marks.entered,
                lambda handle: tf.raw_ops.AssignAddVariableOp(
                    resource=handle, value=tf.constant(1, tf.int64)
                ),
            )

    def leaves(self, outputs: Sequence[tf.Tensor], ranks: Sequence[int] | None) -> list[tf.Tensor]:
        """Let the graph count a collective as finished when its outputs exist.

        What is called later and holds collectives, too, begins when this has been counted.
        TensorFlow leaves out what is only waited for, so the number is made from an output.

        Returns:
            The outputs, to go on with.
        """
        first, *others = outputs
        # A thread of Horovod's ends the collective, and all that waits for it is handed to threads
        # of TensorFlow's, one by one. So a single thing waits, and its thread does the rest.
        first = tf.raw_ops.PlaceholderWithDefault(input=first, shape=first.shape)
        with tf.control_dependencies([first, *others]):
            _count(self._marks(ranks).left, _one(first))
        return [first, *others]

    def _marks(self, ranks: Sequence[int] | None) -> GraphMarks:
        key = None if ranks is None else tuple(ranks)
        if key not in self._graphs:
            with tf.init_scope(), tf.device("CPU:0"):
                self._graphs[key] = GraphMarks(*(own_variable(0, tf.int64) for _ in range(2)))
        return self._graphs[key]

    @contextlib.contextmanager
    def paused(self, reason: str) -> Iterator[None]:
        """See `pause`."""
        self._pauses.append(reason)
        self.changed()
        try:
            with notes.times(CHECKPOINTS, reason):
                yield
        finally:
            self._pauses.remove(reason)
            self.changed()

    def state(self) -> dict[str, Any]:
        """What the other ranks are told (`hvdkit.watch.judge.State`)."""
        doing, inside = self._doing, self._inside
        what = "a graph" if inside is None else inside()
        return {
            "doing": doing.what,
            "ranks": None if doing.ranks is None else list(doing.ranks),
            "patient": doing.patient,
            "collective": doing.collective,
            "in_a_step": inside is not None,
            "count": self._count,
            "pause": self._pauses[-1] if self._pauses else None,
            "graphs": [
                {
                    "ranks": None if key is None else list(key),
                    # In this order, so that a collective never seems left but not entered.
                    "left": int(marks.left.numpy()),
                    "entered": int(marks.entered.numpy()),
                    "what": f"{what} ({marks.described()})" if marks.names else what,
                }
                for key, marks in list(self._graphs.items())
            ],
        }


def written_by_graph(
    variable: tf.Variable, write: Callable[[tf.Tensor], tf.Operation]
) -> tf.Operation:
    """Let the graph that is being made write into a variable, in no order with what else it does.

    Args:
        variable: one of `own_variable`.
        write: makes the operation from the variable's handle.
    """
    return in_no_order(write(_handle_in(tf.compat.v1.get_default_graph(), variable.handle)))


def in_no_order(operation: tf.Operation) -> tf.Operation:
    """Let an operation run as soon as its inputs exist, whatever was made before it."""
    if manager := operation.graph.experimental_acd_manager:
        manager.run_independently(operation)
    return operation


def _count(variable: tf.Variable, more: tf.Tensor) -> tf.Operation:
    """Let the graph that is being made add to a variable."""
    handle = _handle_in(tf.compat.v1.get_default_graph(), variable.handle)
    return tf.raw_ops.AssignAddVariableOp(resource=handle, value=more)


def _calls_that_count(variable: tf.Variable) -> list[tf.Operation]:
    """What the graph that is being made calls so far, and adds to the variable."""
    handle = _handle_in(tf.compat.v1.get_default_graph(), variable.handle)
    return [op for op in handle.consumers() if op.type != "AssignAddVariableOp"]


def _handle_in(graph: Any, handle: tf.Tensor) -> tf.Tensor:
    """The handle as a tensor of a function's graph.

    Branches and loops take it from the graph around them: in their gradients TensorFlow knows
    nothing that comes from further out.
    """
    if isinstance(graph, _CONTROL_FLOW):
        handle = _handle_in(graph.outer_graph, handle)
    return graph.capture(handle)


def _one(tensor: tf.Tensor) -> tf.Tensor:
    """1, which can't be known before the tensor exists; the tensor stays where it is."""
    with tensor.graph.colocate_with(tensor.op, ignore_existing=True):
        of_any_rank = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=None)
        rank = tf.rank(of_any_rank)
    return tf.cast(rank >= 0, tf.int64)


activity = Activity()


def pause(reason: str = "pause") -> contextlib.AbstractContextManager[None]:
    """Declare that this rank does something long which the others may have to wait for.

    The time inside does not count towards `stall_timeout` of `hvd.init`, on any rank: a rank that
    writes a large file, or evaluates alone, is not taken for one that has stopped taking part.

    Args:
        reason: what it does, in a few words.

    Example:
        >>> if hvd.rank() == 0:
        ...     with hvd.pause("saving"):
        ...         model.save("model.keras")
    """
    return activity.paused(reason)
