"""Fewer bytes between ranks: tensors travel in a smaller type.

`Cast` is the codec; `Compression` has the names that Horovod gives it, and `codec_of` takes
Horovod's compressors and one's own for codecs.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import keras
import tensorflow as tf

from hvdkit.exchange.base import Codec
from hvdkit.exchange.traffic import elements, plain_bytes


class AsIs:
    """Tensors travel as they are."""

    additive = True

    def encode(self, tensor: tf.Tensor) -> tuple[tf.Tensor, None]:
        """Return the tensor itself."""
        return tensor, None

    def decode(self, payload: tf.Tensor, context: None) -> tf.Tensor:
        """Return the tensor itself."""
        del context
        return payload

    def payload_bytes(self, tensor: Any) -> int:
        """See `Sized.payload_bytes`."""
        return plain_bytes(tensor)


@keras.saving.register_keras_serializable("hvdkit")
class Cast:
    """Floats travel as a smaller type; what is as small stays.

    Args:
        dtype: `tf.float16` (half the bytes of float32, 11 bits of precision, at most 65504),
            `tf.bfloat16` (half the bytes, 8 bits, the range of float32), or their names.
    """

    additive = True

    def __init__(self, dtype: tf.DType | str) -> None:
        self.dtype = tf.as_dtype(dtype)

    def encode(self, tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        """Cast a wider float tensor; others stay."""
        if tensor.dtype.is_floating and tensor.dtype.size > self.dtype.size:
            return tf.cast(tensor, self.dtype), tensor.dtype
        return tensor, tensor.dtype

    def decode(self, payload: tf.Tensor, context: tf.DType) -> tf.Tensor:
        """Cast back."""
        return tf.cast(payload, context)

    def payload_bytes(self, tensor: Any) -> int:
        """See `Sized.payload_bytes`."""
        dtype = tf.as_dtype(tensor.dtype)
        smaller = dtype.is_floating and dtype.size > self.dtype.size
        return elements(tensor) * int(self.dtype.size if smaller else dtype.size)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        return {"dtype": self.dtype.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Cast:
        """A codec with the arguments of `get_config`."""
        return cls(**config)


class Compressor(Protocol):
    """Anything with these two functions: a class below, one of Horovod's, or an object."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The tensor that travels, and what `decompress` needs to know."""
        ...

    def decompress(self, tensor: tf.Tensor, ctx: Any) -> tf.Tensor:
        """The reduced tensor in the type that `compress` was given."""
        ...


class NoneCompressor:
    """Gradients travel as they are."""

    @staticmethod
    def compress(tensor: tf.Tensor) -> tuple[tf.Tensor, None]:
        """Return the tensor itself."""
        return tensor, None

    @staticmethod
    def decompress(tensor: tf.Tensor, ctx: None) -> tf.Tensor:
        """Return the tensor itself."""
        return tensor


class _CastCompressor:
    """`Cast` in the form of Horovod's compressors, which are classes and not instances."""

    _codec: Cast

    @classmethod
    def compress(cls, tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        """Cast a wider float tensor; others stay."""
        return cls._codec.encode(tensor)

    @classmethod
    def decompress(cls, tensor: tf.Tensor, ctx: tf.DType) -> tf.Tensor:
        """Cast back."""
        return cls._codec.decode(tensor, ctx)


class FP16Compressor(_CastCompressor):
    """Floats travel as float16: half the bytes, 11 bits of precision, at most 65504."""

    _codec = Cast(tf.float16)


class BF16Compressor(_CastCompressor):
    """Floats travel as bfloat16: half the bytes, 8 bits of precision, the range of float32."""

    _codec = Cast(tf.bfloat16)


class Compression:
    """The compressors by name, as in `hvd.DistributedOptimizer(opt, compression=...)`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor


class OfCompressor:
    """A compressor as a codec: its tensors are summed, as Horovod does.

    Args:
        compressor: one of Horovod's, or of one's own.
    """

    additive = True

    def __init__(self, compressor: Compressor) -> None:
        self.encode = compressor.compress
        self.decode = compressor.decompress


Compressing: TypeAlias = Compressor | Codec
"""What `compression=` takes."""

_CODECS: dict[type, Codec] = {
    Compression.none: AsIs(),
    Compression.fp16: Cast(tf.float16),
    Compression.bf16: Cast(tf.bfloat16),
}


def codec_of(compression: Any) -> Codec:
    """The codec that `compression=` means.

    Args:
        compression: one of `Compression`, a codec, or anything with `compress` and `decompress`.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(compression, type) and compression in _CODECS:
        return _CODECS[compression]
    if all(hasattr(compression, name) for name in ("additive", "encode", "decode")):
        codec: Codec = compression
        return codec
    if all(callable(getattr(compression, name, None)) for name in ("compress", "decompress")):
        return OfCompressor(compression)
    if hasattr(compression, "aggregate"):
        kind = getattr(compression, "__name__", type(compression).__name__)
        raise TypeError(
            f"{kind} is an aggregator, and no codec: give hvd.exchange.AllReduce({kind}(...))."
        )
    raise TypeError(
        "compression is hvd.Compression.none, fp16 or bf16, or something with compress() and "
        f"decompress(), or encode() and decode(); not {compression!r}."
    )
