"""A few integers that tell whether ranks hold the same bits.

For the words b_i of a variable (32 bits or fewer, as signed integers) the digest is the sum of
all b_i and the sum of all i b_i, modulo 2^64. A bit that flips changes the first; two different
words that change places change the second, by (i - j)(b_j - b_i), which is less than 2^64 and so
never 0, for variables of less than 2^31 words. Both come from sums over the rows and the columns
of the words as a matrix, so the words are read twice and multiplied never.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from hvdkit.engine import (
    ProcessSet,
    explained_in_graph,
    global_process_set,
    ops,
    require_same,
    topology,
)
from hvdkit.mesh.variable import described, raw, variable_key

_INTEGERS = {1: tf.int8, 2: tf.int16, 4: tf.int32}


class Digests:
    """The digests of some variables, compared over ranks in one small exchange.

    The first use compares the variables' shapes and types between ranks.

    Args:
        variables: `keras.Variable` or `tf.Variable`, in the same order on all ranks.
        process_set: the ranks that take part.
    """

    def __init__(
        self, variables: Sequence[Any], process_set: ProcessSet = global_process_set
    ) -> None:
        self.variables = list(variables)
        self.process_set = process_set
        self._widths = [2 * _lanes(tf.as_dtype(v.dtype)) for v in self.variables]
        self._gathered = tf.function(self._gather, autograph=False)
        self._same_kinds = False

    def covers(self, variables: Sequence[Any], process_set: ProcessSet) -> bool:
        """Whether these are digests of just these variables, on these ranks."""
        same = list(map(variable_key, variables)) == list(map(variable_key, self.variables))
        return same and process_set is self.process_set

    def own(self) -> tf.Tensor:
        """This rank's digests, one after the other (int64 vector)."""
        values = [tf.convert_to_tensor(raw(variable)) for variable in self.variables]
        return tf.concat([_digest_of(v.dtype, tuple(v.shape))(v) for v in values], 0)

    def differing(self) -> list[int]:
        """Compare with the other ranks, which call this, too.

        Returns:
            The positions of the variables that are not the same on all ranks; the same list on
            all of them.

        Raises:
            RankMismatchError: on every rank, when the ranks have other variables.
            CollectiveError: another rank left the job, or did not come in time.
        """
        if not self.variables or topology.process_set_size(self.process_set) == 1:
            return []
        if not self._same_kinds:
            kinds = list(map(described, self.variables))
            require_same("the variables of model and optimizer", kinds, self.process_set)
            self._same_kinds = True
        with explained_in_graph("the check that all ranks hold the same variables"):
            rows = self._gathered(self.own()).numpy()
        digests = np.split(rows, np.cumsum(self._widths)[:-1], axis=1)
        return [i for i, each in enumerate(digests) if (each != each[0]).any()]

    def _gather(self, own: tf.Tensor) -> tf.Tensor:
        return ops.allgather(own[tf.newaxis], name="hvdkit_digests", process_set=self.process_set)


def digests_of(
    model: Any, purpose: str, variables: Sequence[Any], process_set: ProcessSet
) -> Digests:
    """Digests that a model keeps, so that their graph is traced once and not in each `fit`.

    Args:
        model: the model.
        purpose: each has digests of its own.
        variables: see `Digests`.
        process_set: see `Digests`.
    """
    # Past Keras's attribute tracking, which would make them a part of the model.
    kept: dict[str, Digests] = vars(model).setdefault("_hvdkit_digests", {})
    found = kept.get(purpose)
    if found is None or not found.covers(variables, process_set):
        found = kept[purpose] = Digests(variables, process_set)
    return found


@functools.lru_cache(maxsize=1024)
def _digest_of(dtype: tf.DType, shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
    """`digest`, traced once for all variables, of any model, that have this type and shape."""
    function = tf.function(digest, autograph=False)
    return cast(
        Callable[[tf.Tensor], tf.Tensor],
        function.get_concrete_function(tf.TensorSpec(shape, dtype)),
    )


def digest(value: tf.Tensor) -> tf.Tensor:
    """The digest of a tensor: int64, two numbers for each 32-bit word of an element."""
    return tf.stack([number for words in _words(value) for number in _sums(words)])


def _sums(words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    by_row, by_column = tf.reduce_sum(words, 1), tf.reduce_sum(words, 0)
    rows, columns = (tf.size(sums, tf.int64) for sums in (by_row, by_column))
    weighted = columns * tf.reduce_sum(tf.range(rows) * by_row)
    return tf.reduce_sum(by_row), weighted + tf.reduce_sum(tf.range(columns) * by_column)


def _words(value: tf.Tensor) -> list[tf.Tensor]:
    """The bits of a tensor as int64 matrices: one, or one for each word of an element."""
    if value.dtype == tf.bool:
        value = tf.cast(value, tf.int8)
    columns = value.shape[-1] if value.shape.rank else 1
    size = value.dtype.size
    if size <= 4:
        matrix = tf.reshape(tf.bitcast(value, _INTEGERS[size]), [-1, columns or 1])
        return [tf.cast(matrix, tf.int64)]
    words = tf.reshape(tf.bitcast(value, tf.int32), [-1, columns or 1, size // 4])
    return list(tf.unstack(tf.cast(words, tf.int64), axis=-1))


def _lanes(dtype: tf.DType) -> int:
    return max(1, int(dtype.size) // 4)
