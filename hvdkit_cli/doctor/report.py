"""Show the doctor's findings, to people and to programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from hvdkit_cli.doctor.check import Check

_MARKS = {"ok": "[green]ok[/]", "fail": "[bold red]FAIL[/]", "skip": "[dim]--[/]"}


def as_table(checks: Sequence[Check]) -> Table:
    """Return the findings as a table; a failure's remedy stands below what was found."""
    table = Table(title="hvdkit doctor", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in checks:
        found = escape(check.detail)
        if check.remedy:
            found += f"\n[yellow]remedy:[/] {escape(check.remedy)}"
        table.add_row(check.name, _MARKS[check.status], found)
    return table


def as_json(checks: Sequence[Check]) -> str:
    """Return the findings as a JSON object: `ok`, and `checks`, a list of objects."""
    good = not any(check.failed for check in checks)
    return json.dumps({"ok": good, "checks": [asdict(check) for check in checks]}, indent=2)
