"""Exported models, each run by its own runtime, all alike. Without TensorFlow where it can be."""

from hvdkit.export.runtimes.base import Runtime, TensorSpec
from hvdkit.export.runtimes.loading import load

__all__ = ["Runtime", "TensorSpec", "load"]
