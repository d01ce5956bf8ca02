"""Fewer bytes between ranks: gradients travel in a smaller type."""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf


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


class FP16Compressor:
    """Floats travel as float16: half the bytes, 11 bits of precision, at most 65504."""

    @staticmethod
    def compress(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        """Cast a float tensor to float16; others stay."""
        return _narrow(tensor, tf.float16)

    @staticmethod
    def decompress(tensor: tf.Tensor, ctx: tf.DType) -> tf.Tensor:
        """Cast back."""
        return tf.cast(tensor, ctx)


class BF16Compressor:
    """Floats travel as bfloat16: half the bytes, 8 bits of precision, the range of float32."""

    @staticmethod
    def compress(tensor: tf.Tensor) -> tuple[tf.Tensor, tf.DType]:
        """Cast a float tensor to bfloat16; others stay."""
        return _narrow(tensor, tf.bfloat16)

    @staticmethod
    def decompress(tensor: tf.Tensor, ctx: tf.DType) -> tf.Tensor:
        """Cast back."""
        return tf.cast(tensor, ctx)


class Compression:
    """The compressors by name, as in `hvd.DistributedOptimizer(opt, compression=...)`."""

    none = NoneCompressor
    fp16 = FP16Compressor
    bf16 = BF16Compressor


def _narrow(tensor: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.DType]:
    if tensor.dtype.is_floating and tensor.dtype.size > dtype.size:
        return tf.cast(tensor, dtype), tensor.dtype
    return tensor, tensor.dtype
