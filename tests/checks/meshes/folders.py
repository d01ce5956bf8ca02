"""A folder that all ranks of the job share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hvdkit as hvd


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A new folder, the same on all ranks; removed when all are done with it."""
    folder = Path(hvd.broadcast_object(tempfile.mkdtemp() if hvd.rank() == 0 else None))
    try:
        yield folder
        hvd.barrier()
    finally:
        if hvd.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
