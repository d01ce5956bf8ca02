"""The process of a rank that a keeper has started: `python -m hvdkit.jobs.process FOLDER PARENT`.

TensorFlow is loaded by the function that the rank calls.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hvdkit.jobs.joining import JOIN, join
from hvdkit_cli import rank
from hvdkit_cli.run.script import end_with_parent


def main(folder: Path, parent: int) -> None:
    """Call the rank's function."""
    _end_with(parent)
    if JOIN in os.environ:
        join()
    rank.main(folder, 0)


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its keeper is gone, however that happens."""
    end_with_parent()
    if os.getppid() != parent:
        sys.exit("the keeper of this rank is gone")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
