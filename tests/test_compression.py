"""Compression of gradients: its bytes, by shapes alone; and what it does, on real ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.reshard import reshard
from hvdkit.exchange import (
    AllReduce,
    Cast,
    ErrorFeedback,
    Int8,
    LocalSGD,
    OneBit,
    PowerSGD,
    Sharded,
    TopK,
    Traffic,
)
from hvdkit.exchange.compression.low_rank import matrix_shape

JOBS = [("compression", "mpi", 2)]
LONG_JOBS = [("compression", "gloo", 3), ("compression_meshes", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


def of(*shape: int, dtype: str = "float32") -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def resnet18() -> list[tf.TensorSpec]:
    """The trainable variables of ResNet-18 for CIFAR-10, as Keras lays them out."""
    found, inputs = [of(3, 3, 3, 64), of(64), of(64)], 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            found += [of(3, 3, inputs, width), of(width), of(width)]
            found += [of(3, 3, width, width), of(width), of(width)]
            found += [of(1, 1, inputs, width), of(width), of(width)] if inputs != width else []
            inputs = width
    return [*found, of(512, 10), of(10)]


def lstm() -> list[tf.TensorSpec]:
    """Three layers of 650 over 28,869 words; the embedding is the output's kernel, too."""
    layer = [of(650, 2600), of(650, 2600), of(2600), of(2600)]
    return [of(28869, 650), *layer, *layer, *layer, of(28869)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("model", "parameters", "factors"),
    [
        (resnet18(), 11_173_962, {1: "243.3", 2: "135.8", 4: "72.1"}),
        (lstm(), 28_949_319, {1: "310", 2: "203", 4: "120"}),
    ],
    ids=["resnet18", "lstm"],
)
def test_factors_of_the_paper(model: Any, parameters: int, factors: dict[int, str]) -> None:
    """Those of ResNet-18 and of the LSTM in Vogels et al., 2019."""
    plain = AllReduce().traffic(model)
    assert plain == Traffic(reduced=4 * parameters)
    for rank, factor in factors.items():
        fewer = plain.given / AllReduce(PowerSGD(rank)).traffic(model).given
        digits = len(factor.partition(".")[2])
        assert f"{fewer:.{digits}f}" == factor


@pytest.mark.quick
def test_bytes_of_each_method() -> None:
    tensors = [of(100, 30), of(17), of(), of(9, dtype="float16")]
    numbers = [3000, 17, 1, 9]
    for method, expected in (
        (AllReduce(), Traffic(reduced=4 * 3018 + 2 * 9)),
        (AllReduce(compression=Cast("bfloat16")), Traffic(reduced=2 * 3027)),
        (AllReduce(ErrorFeedback(Cast("float16"))), Traffic(reduced=2 * 3027)),
        (AllReduce(compression=OneBit()), Traffic(gathered=375 + 3 + 1 + 2 + 4 * 4)),
        (AllReduce(Int8(block=100)), Traffic(gathered=3027 + 4 * (30 + 1 + 1 + 1))),
        (AllReduce(TopK(ratio=0.1)), Traffic(gathered=8 * (300 + 2 + 1 + 1))),
        (AllReduce(PowerSGD(rank=2)), Traffic(reduced=4 * (2 * 130 + 18) + 2 * 9)),
        (LocalSGD(every=10), Traffic(reduced=(4 * 3018 + 2 * 9) / 10)),
        (Sharded(), Traffic(reduced=4 * 3018 + 2 * 9)),
    ):
        assert method.traffic(tensors) == expected
    assert AllReduce(PowerSGD(1, start_step=5)).traffic(tensors, step=4) == AllReduce().traffic(
        tensors
    )
    top = AllReduce(TopK(ratio=0.01, warmup_steps=30))
    sent = [top.traffic([of(10_000)], step=step).given // 8 for step in (0, 9, 10, 20, 29, 30, 99)]
    assert sent == [2500, 2500, 625, 157, 157, 100, 100]
    assert sum(numbers) == 3027


@pytest.mark.quick
def test_bytes_on_the_wire() -> None:
    """What is summed travels twice around, what is gathered once to each."""
    traffic = Traffic(reduced=1000, gathered=100)
    assert [traffic.sent(ranks) for ranks in (1, 2, 4)] == [0, 1100, 1800]


@pytest.mark.quick
def test_a_codec_that_does_not_tell() -> None:
    class Silent:
        additive = True
        encode = decode = None

    with pytest.raises(TypeError, match="Silent does not say what it sends"):
        AllReduce(compression=Silent()).traffic([of(3)])


@pytest.mark.quick
def test_kernels_as_matrices() -> None:
    for shape, matrix in (
        ((), (1, 1)),
        ((7,), (7, 1)),
        ((5, 3), (5, 3)),
        ((3, 3, 16, 32), (144, 32)),
        ((64, 8, 16), (64, 128)),  # a query's kernel: [inputs, heads, size of a head]
        ((8, 16, 64), (128, 64)),  # attention's output
    ):
        assert matrix_shape(shape) == matrix


@pytest.mark.quick
def test_residuals_of_another_number_of_ranks_are_their_mean() -> None:
    """So that what all ranks have not yet sent is not lost, and not sent twice."""
    files = [Contents({"residuals/0": np.full(3, v, "float32")}, {}) for v in (1.0, 3.0, 8.0)]
    for rank in range(2):
        found = reshard(rank, 3, files.__getitem__)
        np.testing.assert_array_equal(found.arrays["residuals/0"], [4.0] * 3)
