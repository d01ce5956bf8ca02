"""What `hvdkit plan` does with its options."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from hvdkit.planner.search import Plan, plan, what_would_fit
from hvdkit.planner.units import bytes_text
from hvdkit_cli.errors import CommandError
from hvdkit_cli.plan.figures import as_dictionary
from hvdkit_cli.plan.options import Asked
from hvdkit_cli.plan.table import print_plan


def run(asked: Asked, *, as_json: bool, rows: int | None, picture: Path | None) -> None:
    """Plan, and print what was found.

    Args:
        asked: the options.
        as_json: print JSON in place of the table.
        rows: of the table; None for all.
        picture: a file to draw to.

    Raises:
        CommandError: the question is wrong, or nothing fits.
    """
    cluster = asked.the_cluster()
    model = asked.the_model(cluster)
    job = asked.the_job()
    exchanges = asked.the_exchanges()
    try:
        steps = asked.steps(model)
        found = plan(model, cluster, job, exchanges, asked.the_meshes())
    except ValueError as error:
        raise CommandError(str(error), "see hvdkit plan --help") from error
    if found.best is None:
        raise _nothing(found, asked)
    if as_json:
        click.echo(json.dumps(as_dictionary(found, steps), indent=1))
    else:
        print_plan(found, steps, rows, Console())
    if picture is not None:
        from hvdkit_cli.plan.picture import draw

        draw(found, picture)


def _nothing(found: Plan, asked: Asked) -> CommandError:
    """What is said where no mesh can be used: what is the least that would be enough."""
    cluster, model = found.cluster, found.model
    least = [each for each in found.candidates if each.memory]
    if not least:
        problems = dict.fromkeys(each.problem for each in found.candidates)
        first = list(problems)[:4]
        return CommandError(
            f"{model.name} divides over no mesh of {cluster.ranks} ranks: {' '.join(first)}",
            "change the batch size or the number of devices (--batch, --ranks)",
        )
    smallest = min(least, key=lambda each: each.memory)
    limit = min(device.memory for device, _ in cluster.in_use())
    enough = None
    if not asked.meshes:
        enough = what_would_fit(model, cluster, asked.the_job(), asked.the_exchanges())
    remedy = "use more devices (--ranks) or a smaller batch (--batch)"
    if enough is not None:
        recompute = f" --recompute {enough.job.recompute}" if enough.job.recompute != "none" else ""
        remedy = (
            f"it fits on {enough.degrees.ranks} such devices as {enough.degrees}: "
            f"--ranks {enough.degrees.ranks} --exchange {enough.job.exchange.name}{recompute}"
        )
    return CommandError(
        f"{model.name} fits on no mesh of {cluster.ranks} ranks: the least is {smallest.degrees} "
        f"with {smallest.job.exchange.name} and micro-batches of {smallest.job.micro_batch}, where "
        f"a rank needs {bytes_text(smallest.memory)} and has {bytes_text(limit)}.",
        remedy,
    )
