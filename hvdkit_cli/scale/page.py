"""What was found, as one HTML file that needs no other."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from hvdkit.planner.scaling import ROUNDS_FOR_A_RANGE
from hvdkit_cli.scale.result import Result
from hvdkit_cli.scale.setting import Setting
from hvdkit_cli.scale.tables import Grid, grids
from hvdkit_cli.scale.words import sentences

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
table { border-collapse: collapse; margin: 0 0 1.5em }
th, td { text-align: right; padding: .25em .7em; border-bottom: 1px solid #ddd;
         white-space: nowrap }
h2 { font-size: 1.1em; margin: 1.5em 0 .4em }
img { max-width: 100% }
code { background: #f3f3f3; padding: .1em .3em }
"""
_RANGES = " In brackets: where the true figure is in 95 of 100 cases, by the rounds."


def page(result: Result, picture: Path | None) -> str:
    """The whole page.

    Args:
        result: what was found.
        picture: a PNG file to show in it; None for none.
    """
    told = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences(result))
    tables = "".join(_table(grid) for series in result.series for grid in grids(series))
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>How well it scales</title><style>{_STYLE}</style></head>
<body>
<h1>How well it scales</h1>
<p><code>{escape(result.command)}</code></p>
<p>{result.rounds} round{"s" * (result.rounds > 1)}; {result.steps} steps of each start, after
{result.warm_up} to warm up.{_RANGES * (result.rounds >= ROUNDS_FOR_A_RANGE)}</p>
<ul>
{told}</ul>
{"" if picture is None else _image(picture)}
{tables}<h2>How it was measured</h2>
{_setting(result.setting)}</body>
</html>
"""


def _setting(setting: Setting) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in setting.versions.items())
    return (
        f"<p>{escape(setting.when)} on {escape(setting.host)}, with {escape(versions)}:<br>\n"
        f"<code>{escape(setting.line)}</code></p>\n"
    )


def _image(picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img alt="Speed-ups, and where a step goes" src="data:image/png;base64,{data}"></p>'


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in grid.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>\n" for row in grid.rows
    )
    return f"<h2>{escape(grid.title)}</h2>\n<table>\n<tr>{head}</tr>\n{rows}</table>\n"
