"""What was chosen for a model, in words: rank 0 prints it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from hvdkit.parallel.automatic.kinds import Columns, Dropped, Gathered, Role, Roles, Rows


@dataclass
class ParallelPlan:
    """How a model is divided over ranks.

    Attributes:
        name: the model's name.
        mesh: the mesh, and why.
        exchange: how replicas stay together, and why.
        layers: for each layer with large weights its name, and what becomes of it.
        cuts: names of the layers after which a pipeline is cut.
        notes: what else the user has to know.
    """

    name: str
    mesh: str
    exchange: str
    layers: dict[str, str] = field(default_factory=dict)
    cuts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, roles: Roles) -> None:
        """Add what becomes of layers that could be sharded."""
        for key, (_, role) in roles.layers.items():
            if not isinstance(role, Dropped):
                self.layers[roles.names[key]] = _described(role)
        for key, reason in roles.reasons.items():
            self.layers[roles.names[key]] = f"whole: {reason}"

    def table(self) -> Table:
        """The plan as a table of rich; layers that differ in numbers only are in one row."""
        table = Table(title=f"{self.name} is divided", show_lines=False)
        table.add_column("what")
        table.add_column("how, and why")
        table.add_row("mesh", self.mesh)
        table.add_row("exchange", self.exchange)
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
        Console().print(self.table())


def _described(role: Role) -> str:
    if isinstance(role, Columns):
        return "its outputs are sharded; a later layer sums over them"
    if isinstance(role, Gathered):
        return "its outputs are sharded, and gathered at its end: no later layer sums over them"
    if isinstance(role, Rows):
        return "its rows are sharded"
    return "its inputs are sharded; it ends with a sum over the ranks"
