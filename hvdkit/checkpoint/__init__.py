"""Checkpoints that are whole or not there, and exact when resumed.

With `fit`, use `hvd.callbacks.BackupAndRestore`; a loop of one's own calls `save` and `restore`.
The files hold arrays and plain data only: nothing in them is ever run.
"""

from hvdkit.checkpoint.loops import latest, restore, save
from hvdkit.checkpoint.preemption import Preempted
from hvdkit.checkpoint.store import Manifest, verify
from hvdkit.errors import CheckpointError

__all__ = ["CheckpointError", "Manifest", "Preempted", "latest", "restore", "save", "verify"]
