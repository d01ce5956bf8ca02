"""Checkpoints that are whole or not there, and exact when resumed.

With `fit`, use `hvd.callbacks.BackupAndRestore`; a loop of one's own calls `save` and `restore`.
The files hold arrays and plain data only: nothing in them is ever run.
"""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.checkpoint.loops import latest, restore, save
    from hvdkit.checkpoint.preemption import Preempted
    from hvdkit.checkpoint.store import Manifest, verify
    from hvdkit.errors import CheckpointError
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={
            "hvdkit.checkpoint.store": "Manifest verify",
            "hvdkit.errors": "CheckpointError",
        },
        training={
            "hvdkit.checkpoint.loops": "latest restore save",
            "hvdkit.checkpoint.preemption": "Preempted",
        },
    )

__all__ = ["CheckpointError", "Manifest", "Preempted", "latest", "restore", "save", "verify"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
