"""A digest sees every flipped bit and every swap."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd
from hvdkit.state.differences import compare
from hvdkit.state.digest import Digests
from hvdkit.state.digest import digest as _digest

digest = tf.function(_digest)
TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint16", "int64", "complex64")


def _values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.random.default_rng(0).normal(size=shape) * 50
    return tf.cast(tf.constant(numbers), dtype).numpy()


@long
def check_every_bit_and_every_swap_is_seen() -> None:
    for dtype in TYPES:
        value = _values(dtype, (2, 3))
        own = digest(tf.constant(value)).numpy()
        np.testing.assert_array_equal(own, digest(tf.constant(value.copy())).numpy())
        raw = np.frombuffer(value.tobytes(), np.uint8)
        for bit in range(8 * raw.size):
            changed = raw.copy()
            changed[bit // 8] ^= 1 << (bit % 8)
            other = np.frombuffer(changed.tobytes(), value.dtype).reshape(value.shape)
            assert (digest(tf.constant(other)).numpy() != own).any(), (dtype, bit)
        flat = value.reshape(-1)
        for i in range(flat.size):
            for j in range(i):
                swapped = flat.copy()
                swapped[[i, j]] = flat[[j, i]]
                if swapped.tobytes() != flat.tobytes():
                    other = digest(tf.constant(swapped.reshape(value.shape))).numpy()
                    assert (other != own).any(), (dtype, i, j)


def check_swaps_far_apart_of_numbers_with_few_bits_are_seen() -> None:
    value = np.ones(2**17 + 1, np.float32)
    value[0] = 2.0
    moved = value[::-1].copy()
    for shape in ((-1,), (-1, 1)):
        one, other = (digest(tf.constant(v.reshape(shape))).numpy() for v in (value, moved))
        assert (one != other).any()


def check_scalars_bools_and_empty_tensors_have_digests() -> None:
    for value in (True, 1.5, 7, np.zeros((0, 3), "float32"), np.zeros((3, 0), "float32")):
        assert digest(tf.constant(value)).shape == (2,)


def check_ranks_find_the_variables_that_differ() -> None:
    same, other = tf.Variable(tf.ones([4, 3])), tf.Variable(tf.zeros([5], tf.float64))
    digests = Digests([same, other, tf.Variable(3)])
    assert digests.differing() == []
    if hvd.rank() == hvd.size() - 1:
        other[2].assign(1e-300)
    assert digests.differing() == ([1] if hvd.size() > 1 else [])


def check_minority_and_amount() -> None:
    base = np.zeros((2, 2), np.float32)
    one = base.copy()
    one[0, 1] = 0.5
    found = compare("w", [0, 1, 2], ["a", "b", "c"], [base, one, base])
    assert (found.minority, found.largest, found.elements, found.size) == (((1, "b"),), 0.5, 1, 4)
    assert compare("w", [0, 2], ["a", "b"], [base, one]).minority == ()
    one[0, 0] = np.nan
    assert "NaN" in str(compare("w", [0, 1, 2], ["a", "b", "c"], [base, one, base]))
