"""The weights of the unsplit model, collected from the stages, or given to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.engine import HvdkitError, ProcessSet, allgather_object, raise_everywhere
from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.parallel.pipeline.lazy_variables import fill, is_released, release
from hvdkit.state import outside_variables
from hvdkit.watch.activity import pause

_TAG = 0
_KINDS = (FileNotFoundError, OSError, ValueError)


class UnsplitModel:
    """The unsplit model, of whose variables each stage has its own values only.

    Args:
        model: the unsplit model; on each stage only its own variables have values.
        owners: the stage of each variable, by the variable's id.
        messages: the stages.
        stages: the ranks of the stages.

    Attributes:
        model: the unsplit model.
    """

    def __init__(
        self,
        model: keras.Model,
        owners: Mapping[int, int],
        messages: PointToPoint,
        stages: ProcessSet,
    ) -> None:
        self.model = model
        self._owners = dict(owners)
        self._messages = messages
        self._stages = stages

    @property
    def graph(self) -> Any:
        """The model's graph of layers; that of a Sequential model is inside it."""
        return getattr(self.model, "_functional", self.model)

    def packed(self, flat: Sequence[Any]) -> Any:
        """Outputs in the model's structure."""
        return keras.tree.pack_sequence_as(self.graph.output, list(flat))

    def outputs(self, rows: int | None) -> Any:
        """What stands for the outputs for so many rows, in the model's structure."""
        tensors = self.graph.outputs
        return self.packed([keras.KerasTensor((rows, *t.shape[1:]), t.dtype) for t in tensors])

    @contextlib.contextmanager
    def gathered(self) -> Iterator[keras.Model | None]:
        """While inside, the first stage has the values of all variables; all stages call it.

        They come one by one, so no stage but the first needs memory for more than its own.

        Yields:
            The unsplit model on the first stage, None on the others.
        """
        foreign = [v for v in self.model.variables if is_released(v)]
        try:
            with self._messages.during("the collection of the unsplit model's weights"):
                self._collect()
            yield self.model if self._messages.index == 0 else None
        finally:
            release(foreign)

    @contextlib.contextmanager
    def scattered(self) -> Iterator[keras.Model | None]:
        """Give all stages the values that the first has at the end; all ranks call it.

        What layers keep outside of variables, such as vocabularies, goes with them. What is raised
        inside is raised on every rank.

        Yields:
            The unsplit model on the first stage, None on the others. Its variables have values,
            those of other stages zeros.
        """
        foreign = [v for v in self.model.variables if is_released(v)]
        first = self._messages.index == 0
        problem: Exception | None = None
        try:
            if first:
                for variable in foreign:
                    fill(variable, np.zeros(variable._shape, _numpy_type(variable)))
            try:
                yield self.model if first else None
            except Exception as error:
                problem = error
            raise_on_all(problem)
            with self._messages.during("the distribution of the unsplit model's weights"):
                self._distribute()
            states = outside_variables.read(self.model) if first else []
            states = allgather_object(
                states, name="hvdkit.outside_variables", process_set=self._stages
            )[0]
        finally:
            release(foreign)
        held = [not any(map(is_released, x.variables)) for x in self.model._flatten_layers()]
        outside_variables.write(
            self.model, [s if own else None for s, own in zip(states, held, strict=True)]
        )

    def write(self, write: Callable[[keras.Model], None]) -> Exception | None:
        """Let the first stage write the model with all values; all stages call it.

        Returns:
            What went wrong on this rank: a full disk, a layer that can't be written.
        """
        with self.gathered() as model:
            if model is None:
                return None
            try:
                with pause("writing the unsplit model"):
                    write(model)
            except Exception as error:
                return error
        return None

    def _collect(self) -> None:
        own = self._messages.index
        for variable in self.model.variables:
            owner = self._owners.get(id(variable), 0)
            if owner == 0:
                continue
            if own == owner:
                self._messages.send(variable.numpy(), 0, _TAG)
            elif own == 0:
                buffer = np.empty(variable._shape, _numpy_type(variable))
                fill(variable, self._messages.receive(buffer, owner, _TAG))
        self._messages.flush()

    def _distribute(self) -> None:
        own = self._messages.index
        for variable in self.model.variables:
            owner = self._owners.get(id(variable), 0)
            if owner == 0:
                continue
            if own == 0:
                self._messages.send(variable.numpy(), owner, _TAG)
            elif own == owner:
                buffer = np.empty(variable._shape, _numpy_type(variable))
                variable.assign(self._messages.receive(buffer, 0, _TAG))
        self._messages.flush()


def raise_on_all(problem: Exception | None) -> None:
    """Raise on every rank what went wrong on some, such as with a file; all ranks call it.

    Args:
        problem: what went wrong on this rank, if anything.

    Raises:
        FileNotFoundError, OSError, ValueError: where that is what went wrong.
        HvdkitError: for all else.
    """
    kind = next((kind for kind in _KINDS if isinstance(problem, kind)), HvdkitError)
    text = None if problem is None else f"{type(problem).__name__}: {problem}"
    try:
        raise_everywhere(text, kind)
    except kind as error:
        raise error from problem


def _numpy_type(variable: Any) -> Any:
    return tf.as_dtype(variable._dtype).as_numpy_dtype
