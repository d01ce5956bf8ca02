"""What can go wrong with a checkpoint."""

from __future__ import annotations

from hvdkit.engine import HvdkitError


class CheckpointError(HvdkitError):
    """A checkpoint can't be written, or none can be read; raised alike on every rank."""
