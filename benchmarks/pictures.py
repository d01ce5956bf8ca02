"""Draw without a screen, and save as PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def picture(
    file: Path, columns: int = 1, size: tuple[float, float] = (6, 4), rows: int = 1
) -> Iterator[Any]:
    """Axes to draw on, row by row, saved to `file` in the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    yield list(axes.flat)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
