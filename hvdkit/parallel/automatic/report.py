"""What was chosen for a model, in words: rank 0 prints it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from hvdkit.parallel.automatic.kinds import Columns, Dropped, Gathered, Role, Roles, Rows
from hvdkit.parallel.automatic.placed import PlacedLayer
from hvdkit.planner.transformer import Degrees


@dataclass
class ParallelPlan:
    """How a model is divided over ranks.

    Attributes:
        name: the model's name.
        mesh: the mesh, and why.
        exchange: how replicas stay together.
        degrees: the mesh's sizes.
        others: other meshes and exchanges that were compared, and why they are not it.
        layers: for each layer that could be sharded its name, and what becomes of it.
        placed: the layers with weights, and where each is.
        cuts: names of the layers after which a pipeline is cut.
        notes: what else the user has to know.
    """

    name: str
    mesh: str
    exchange: str
    degrees: Degrees = field(default_factory=Degrees)
    others: dict[str, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    placed: list[PlacedLayer] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, roles: Roles) -> None:
        """Add what becomes of layers that could be sharded."""
        for key, (_, role) in roles.layers.items():
            if not isinstance(role, Dropped):
                self.layers[roles.names[key]] = _described(role)
        for key, reason in roles.reasons.items():
            self.layers[roles.names[key]] = f"whole: {reason}"

    def ranks_of(self, stage: int, shard: int) -> list[int]:
        """The ranks that hold a shard of a stage, one of each replica."""
        sizes = self.degrees
        return [(d * sizes.pipeline + stage) * sizes.tensor + shard for d in range(sizes.data)]

    def stages(self) -> list[str]:
        """A line for each stage: its layers, and its ranks with what each holds."""
        return [self._stage(number) for number in range(self.degrees.pipeline)]

    def _stage(self, number: int) -> str:
        layers = [layer for layer in self.placed if layer.stage == number]
        sharded = sum(layer.how != "whole" for layer in layers)
        what = f"{layers[0].name} to {layers[-1].name}" if layers else "nothing with weights"
        what += f": {len(layers)} layers with weights"
        if self.degrees.tensor > 1:
            what += f", {sharded} of them sharded"
        held = sum(_held(layer, self.degrees.tensor) for layer in layers)
        boxes = [
            f"[rank {', '.join(_shortened(list(map(str, self.ranks_of(number, shard)))))}]"
            for shard in range(self.degrees.tensor)
        ]
        return f"{' '.join(_shortened(boxes))} {held:,.0f} weights each\n{what}"

    def table(self) -> Table:
        """The plan as a table of rich; layers that differ in numbers only are in one row."""
        table = Table(title=f"{self.name} is divided", show_lines=False)
        table.add_column("what")
        table.add_column("how, and why")
        table.add_row("mesh", self.mesh)
        table.add_row("exchange", self.exchange)
        for name, why in self.others.items():
            table.add_row("not", f"{name}: {why}")
        for number, text in enumerate(self.stages()):
            table.add_row(f"stage {number}" if self.degrees.pipeline > 1 else "ranks", text)
        rows: dict[tuple[str, str], int] = {}
        for name, how in self.layers.items():
            key = re.sub(r"\d+", "*", name), how
            rows[key] = rows.get(key, 0) + 1
        for (name, how), count in rows.items():
            table.add_row(name if count == 1 else f"{name} ({count} times)", how)
        for cut in self.cuts:
            table.add_row("cut", f"after {cut}")
        for note in self.notes:
            table.add_row("note", note)
        return table

    def print(self) -> None:
        """Print the table."""
        Console(markup=False).print(self.table())


def _held(layer: PlacedLayer, degree: int) -> float:
    return layer.weights if layer.how == "whole" else layer.weights / degree


def _shortened(texts: list[str], most: int = 8) -> list[str]:
    return texts if len(texts) <= most else [*texts[: most - 1], "...", texts[-1]]


def _described(role: Role) -> str:
    if isinstance(role, Columns):
        return "its outputs are sharded; a later layer sums over them"
    if isinstance(role, Gathered):
        return "its outputs are sharded, and gathered at its end: no later layer sums over them"
    if isinstance(role, Rows):
        return "its rows are sharded"
    return "its inputs are sharded; it ends with a sum over the ranks"
