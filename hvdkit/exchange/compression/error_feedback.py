"""Error feedback: what the other ranks did not see of a gradient is sent with the next one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import tensorflow as tf

from hvdkit.engine import Average, ProcessSet
from hvdkit.exchange.aggregators import plain_aggregator
from hvdkit.exchange.base import Aggregated, Aggregator
from hvdkit.exchange.compression.casts import Compressing, codec_of
from hvdkit.exchange.configs import from_plain, plain
from hvdkit.exchange.memory import Memory, precise
from hvdkit.exchange.tracked import Tracked
from hvdkit.exchange.traffic import Traffic, traffic_of


@runtime_checkable
class Selective(Protocol):
    """An aggregator that sends the gradients of some variables as they are."""

    def loses(self, variable: Any) -> bool:
        """Whether something of a variable's gradient may not be sent, so that it has to be kept."""
        ...


@keras.saving.register_keras_serializable("hvdkit")
class ErrorFeedback:
    """An aggregator around another one, or a codec, that makes up for what this one loses.

    Each rank adds its residual to its gradient, and keeps as the new residual what the others did
    not see of the sum. So nothing is lost, only delayed: the mean over ranks of (output + residual)
    is the mean of (gradient + old residual), up to the rounding of these sums; with `Cast`, which
    sums on the way, up to that of sums in the small type. With it, coarse and biased codecs, such
    as signs, converge where they do not without. Seide et al., 2014,
    https://doi.org/10.21437/Interspeech.2014-274; Karimireddy et al., 2019,
    https://arxiv.org/abs/1901.09847.

    State: a residual for each variable of which something can be lost, in float32 at least, each
    rank's own; with another number of ranks each starts from their mean. A step with NaN or Inf on
    any rank leaves it alone, whether or not the step itself is left out (`nonfinite=`). Bytes:
    those of what is inside.

    The gradients come unscaled and accumulated, and clipping comes after. Sparse gradients of
    embeddings (`tf.IndexedSlices`) do not pass through aggregators; with `sparse_as_dense=True`
    they do.

    Args:
        inner: an aggregator, or a codec.

    Raises:
        ValueError: `inner` has error feedback already.
        TypeError: it is neither an aggregator nor a codec.

    Example:
        >>> exchange = hvd.exchange.AllReduce(hvd.exchange.ErrorFeedback(hvd.exchange.OneBit()))
        >>> optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), exchange=exchange)
    """

    def __init__(self, inner: Aggregator | Compressing) -> None:
        if _has_feedback(inner):
            raise ValueError(
                f"{type(inner).__name__} has error feedback of its own: use it as it is, "
                f"hvd.exchange.AllReduce({type(inner).__name__}(...))."
            )
        self._given: Any = inner
        self._inner = aggregator_of(inner)
        self._residuals = Memory("residual")

    def build(self, variables: Sequence[Any], ranks: ProcessSet) -> Sequence[Tracked]:
        """See `Aggregator.build`."""
        rows = self._inner.build(variables, ranks)
        return [*rows, *self._residuals.own([v for v in variables if self._loses(v)])]

    def aggregate(
        self, bucket: Sequence[tf.Tensor], variables: Sequence[Any], name: str
    ) -> Aggregated:
        """See `Aggregator.aggregate`."""
        residuals = [self._residuals[v] if self._loses(v) else None for v in variables]
        given = [
            tensor if kept is None else tf.cast(tensor, kept.dtype) + kept.value
            for tensor, kept in zip(bucket, residuals, strict=True)
        ]
        aggregated = self._inner.aggregate(given, variables, name)
        sent = aggregated.sent
        left = [
            (kept, whole - seen)
            for kept, whole, seen in zip(residuals, given, sent, strict=True)
            if kept is not None
        ]
        return Aggregated(
            [tf.cast(m, t.dtype) for m, t in zip(aggregated.mean, bucket, strict=True)],
            lambda: [tf.cast(s, t.dtype) for s, t in zip(sent, bucket, strict=True)],
            [*aggregated.kept, *left],
        )

    def traffic(self, tensors: Sequence[Any], step: int | None = None) -> Traffic:
        """See `Counted.traffic`."""
        return traffic_of(self._inner, [self._as_given(tensor) for tensor in tensors], step)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {"inner": plain(self._given)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ErrorFeedback:
        """An aggregator with the arguments of `get_config`.

        Raises:
            ValueError: what is inside has no config.
        """
        return cls(from_plain("ErrorFeedback(...)", config["inner"]))

    def _loses(self, variable: Any) -> bool:
        return not isinstance(self._inner, Selective) or self._inner.loses(variable)

    def _as_given(self, tensor: Any) -> tf.TensorSpec:
        """A tensor as it comes to what is inside: with a residual in the type of this."""
        dtype = precise(tensor.dtype) if self._loses(tensor) else tf.as_dtype(tensor.dtype)
        return tf.TensorSpec(tensor.shape, dtype)


def _has_feedback(inner: Any) -> bool:
    """Whether an aggregator, or the one inside it, has error feedback."""
    return isinstance(inner, ErrorFeedback) or isinstance(
        getattr(inner, "inner", None), ErrorFeedback
    )


def aggregator_of(inner: Any) -> Aggregator:
    """An aggregator, or the plain one over a codec.

    Raises:
        TypeError: it is neither.
    """
    if all(callable(getattr(inner, name, None)) for name in ("build", "aggregate")):
        aggregator: Aggregator = inner
        return aggregator
    return plain_aggregator(codec_of(inner), Average, 1.0)
