"""One round of gossip: messages to a few ranks, and a weighted mean of what comes from others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hvdkit.engine.point_to_point import PointToPoint
from hvdkit.schedules.gossip import Graph, sources
from hvdkit.watch.activity import own_variable

UNITS = 720720 << 20
"""What a rank's weight of 1 is in units: it can be divided by 1 to 16 without a rest."""


class Mixing:
    """Mixes the weights of this rank with those of the ranks that it hears from.

    Args:
        graph: who sends to whom.
        messages: between the ranks.
        tag: of the messages; another one for each optimizer.
    """

    def __init__(self, graph: Graph, messages: PointToPoint, tag: int) -> None:
        self._graph = graph
        self._messages = messages
        self._tag = tag

    def mixed(
        self, values: Sequence[tf.Tensor], units: tf.Tensor, number: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """A round, eagerly or in a graph.

        Args:
            values: this rank's weights.
            units: its weight of push-sum, an integer.
            number: which round it is.

        Returns:
            Both after it.
        """
        kinds = list(dict.fromkeys(value.dtype for value in values))
        groups = [[i for i, value in enumerate(values) if value.dtype == kind] for kind in kinds]
        flat = [tf.concat([tf.reshape(values[i], [-1]) for i in own], 0) for own in groups]
        # One round after the other: a thread that waits may be the only one that TensorFlow has.
        turn = _turn()
        if tf.executing_eagerly():
            arrays = self._round(units.numpy(), number.numpy(), *[one.numpy() for one in flat])
            outputs = [tf.convert_to_tensor(array) for array in arrays]
        else:
            with tf.control_dependencies([turn.read_value()]):
                units = tf.identity(units)
            outputs = tf.numpy_function(self._round, [units, number, *flat], [tf.int64, *kinds])
            with tf.control_dependencies([outputs[0]]):
                turn.assign_add(1)
        results = list(values)
        for own, whole in zip(groups, outputs[1:], strict=True):
            sizes = [values[i].shape.num_elements() for i in own]
            for i, part in zip(own, tf.split(tf.reshape(whole, [sum(sizes)]), sizes), strict=True):
                results[i] = tf.reshape(part, values[i].shape)
        return results, tf.reshape(outputs[0], [])

    def _round(self, units: Any, number: Any, *own: np.ndarray) -> list[np.ndarray]:
        messages, place, size = self._messages, self._messages.index, self._messages.size
        step = int(number) % self._graph.period(size)
        targets = self._graph.targets(place, size, step)
        share = int(units) // (len(targets) + 1)
        kept = int(units) - share * len(targets)
        with messages.during("a round of gossip"):
            for target in targets:
                messages.send(np.array([share]), to=target, tag=self._tag)
                for array in own:
                    messages.send(array, to=target, tag=self._tag)
            heard = [(kept, list(own))]
            for source in sources(self._graph, place, size, step):
                theirs = messages.receive(np.empty(1, np.int64), source, self._tag)
                arrays = [messages.receive(np.empty_like(a), source, self._tag) for a in own]
                heard.append((int(theirs[0]), arrays))
            messages.flush()
        total = sum(one for one, _ in heard)
        mixed = [np.zeros_like(array) for array in own]
        for one, arrays in heard:
            for sums, array in zip(mixed, arrays, strict=True):
                sums += array * array.dtype.type(one / total)
        return [np.array(total), *mixed]


@functools.cache
def _turn() -> Any:
    with tf.init_scope():
        return own_variable(0, tf.int64)
