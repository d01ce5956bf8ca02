"""The plan of a split: which layers are on which device, and what they cost there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hvdkit.graph.balance import size_text


@dataclass(frozen=True)
class PlannedPart:
    """A line of a plan.

    Attributes:
        device: where the part is.
        layers: names of its layers, in order.
        parameters: number of its trained and other weights.
        size: memory that it needs in training, in bytes.
        milliseconds: estimated time for a batch, forward and backward.
    """

    device: str
    layers: list[str]
    parameters: int
    size: float
    milliseconds: float


@dataclass(frozen=True)
class SplitPlan:
    """How a model is split.

    Attributes:
        name: the model's name.
        parts: its parts, in order.
    """

    name: str
    parts: list[PlannedPart]

    def table(self) -> Table:
        """The plan as a table of rich."""
        table = Table(title=f"{self.name} on {len(self.parts)} devices")
        for column in ("part", "device", "layers"):
            table.add_column(column)
        for column in ("parameters", "memory", "estimated ms"):
            table.add_column(column, justify="right")
        for number, part in enumerate(self.parts):
            table.add_row(
                str(number),
                part.device,
                _few(part.layers),
                f"{part.parameters:,}",
                size_text(part.size),
                f"{part.milliseconds:.2f}",
            )
        return table

    def print(self) -> None:
        """Print the table."""
        Console().print(self.table())

    def draw(self, file: str | Path) -> None:
        """Draw time and memory of the parts as bars into a file, such as "plan.png".

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "drawing a plan needs matplotlib: pip install 'hvdkit[plot]'"
            ) from error
        figure = Figure(figsize=(8, 1.5 + 0.5 * len(self.parts)), layout="constrained")
        FigureCanvasAgg(figure)
        names = [f"{i}: {part.device}\n{_few(part.layers)}" for i, part in enumerate(self.parts)]
        left, right = figure.subplots(1, 2, sharey=True)
        left.barh(names, [part.milliseconds for part in self.parts])
        left.set_xlabel("estimated ms for a batch")
        left.invert_yaxis()
        right.barh(names, [part.size / 2**20 for part in self.parts])
        right.set_xlabel("memory in training (MiB)")
        figure.suptitle(self.name)
        figure.savefig(file)


def _few(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names) or "-"
    return f"{names[0]} ... {names[-1]} ({len(names)})"
