"""Draw without a screen, and save as PNG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def picture(file: Path, columns: int = 1, size: tuple[float, float] = (6, 4)) -> Iterator[Any]:
    """Axes to draw on, a list of `columns` of them, saved to `file` in the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=size, squeeze=False)
    yield list(axes[0])
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)
