"""The plain aggregators: payloads are summed on their way, or gathered and added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.engine import Average, ProcessSet, global_process_set, ops, topology
from hvdkit.exchange.base import Aggregated, Aggregator, Codec
from hvdkit.exchange.compression.casts import AsIs
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, payload_bytes_of


class OfRanks:
    """What an aggregator is made of that is built for some ranks."""

    _built_for: ProcessSet | None = None

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`; nothing is kept in variables.

        Raises:
            ValueError: it was given to an exchange over other ranks before.
        """
        del variables
        if self._built_for is not None and self._built_for is not ranks:
            raise ValueError(
                f"a {type(self).__name__} was given to exchanges over different ranks: make one "
                "for each."
            )
        self._built_for = ranks
        return ()

    @property
    def _ranks(self) -> ProcessSet:
        return global_process_set if self._built_for is None else self._built_for


class _OfCodec(OfRanks):
    """What an aggregator over a codec is made of; it keeps nothing in variables."""

    def __init__(self, codec: Codec, op: int) -> None:
        self._codec = codec
        self._op = op

    @property
    def op(self) -> int:
        """What is made: `Average`, or what takes its place."""
        return self._op


class Summed(_OfCodec):
    """Encode, all-reduce a bucket in one operation, decode.

    Args:
        codec: an additive codec; None to send tensors as they are.
        op: `Average`; or `Sum` or `Adasum`, which then takes the place of the mean.
        predivide_factor: an average divides by this before the sum and by size / factor after it.
    """

    def __init__(
        self, codec: Codec | None = None, op: int = Average, predivide_factor: float = 1.0
    ) -> None:
        super().__init__(codec or AsIs(), op)
        self._factor = predivide_factor

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del variables
        encoded = [self._codec.encode(tensor) for tensor in bucket]
        reduced = ops.grouped_allreduce(
            [payload for payload, _ in encoded],
            self._op,
            name=name,
            prescale=1.0 / self._factor,
            postscale=self._factor,
            process_set=self._ranks,
        )
        mean = [
            self._codec.decode(payload, context)
            for payload, (_, context) in zip(reduced, encoded, strict=True)
        ]
        return Aggregated(mean, lambda: [self._codec.decode(*pair) for pair in encoded])

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        del step
        return Traffic(reduced=payload_bytes_of(self._codec, tensors))


class Gathered(_OfCodec):
    """Encode, gather the payloads of all ranks, decode each and add them up.

    For codecs whose payloads have no sum, such as signs with a scale. Each rank receives the
    payloads of all, so the bytes grow with the ranks.

    Args:
        codec: the codec.
        op: `Average`, or `Sum`, with which the sum takes the place of the mean.
    """

    def __init__(self, codec: Codec, op: int = Average) -> None:
        super().__init__(codec, op)

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del variables
        encoded = [self._codec.encode(tensor) for tensor in bucket]
        payloads = [payload for payload, _ in encoded]
        gathered = ops.grouped_allgather(
            [tensor[tf.newaxis] for tensor in tf.nest.flatten(payloads)],
            name=name,
            process_set=self._ranks,
        )
        mean = [
            self._mean(tensor, payload, context)
            for tensor, payload, (_, context) in zip(
                bucket, tf.nest.pack_sequence_as(payloads, gathered), encoded, strict=True
            )
        ]
        return Aggregated(mean, lambda: [self._codec.decode(*pair) for pair in encoded])

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        del step
        return Traffic(gathered=payload_bytes_of(self._codec, tensors))

    def _mean(self, tensor: tf.Tensor, payloads: Any, context: Any) -> tf.Tensor:
        """The mean of what the ranks have sent, in their order."""
        summed = tf.foldl(
            lambda so_far, payload: so_far + self._codec.decode(payload, context),
            payloads,
            initializer=tf.zeros_like(tensor),
        )
        if self._op != Average:
            return summed
        return summed / tf.cast(topology.ranks_when_run(self._ranks), summed.dtype)


def plain_aggregator(codec: Codec, op: int, predivide_factor: float) -> Aggregator:
    """The aggregator for a codec."""
    return Summed(codec, op, predivide_factor) if codec.additive else Gathered(codec, op)
