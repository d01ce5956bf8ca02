"""The `hvdkit` command and its subcommands. Each imports what it needs when it runs."""

import sys
from pathlib import Path
from typing import Any

import click

from hvdkit_cli.errors import CommandError
from hvdkit_cli.export.line import export_command
from hvdkit_cli.options import HELP, PATH, POSITIVE, prints_json, seconds
from hvdkit_cli.plan.group import plan_group
from hvdkit_cli.run.options import where_ranks_run
from hvdkit_cli.scale.line import scale_command
from hvdkit_cli.scripts import become
from hvdkit_cli.serve.line import serve_command


@click.group(context_settings=HELP)
@click.version_option(package_name="hvdkit")
def cli() -> None:
    """Distributed training of Keras 3 models on TensorFlow, on Horovod's engine."""


@cli.command("build")
@click.option("--gpu", is_flag=True, help="Build for NVIDIA GPUs: collectives through NCCL.")
@click.option(
    "--mpi",
    default="auto",
    metavar="auto|wheel|system|none|PATH",
    show_default=True,
    help="The MPI to build against: the wheel in this environment, the mpicxx on PATH, none at "
    "all, or the path of an mpicxx. auto takes the wheel if it is there, else the system's.",
)
@click.option(
    "--jobs",
    type=POSITIVE,
    help="Compiler processes at a time. Default: as many as cores and memory allow.",
)
@click.option("--force", is_flag=True, help="Compile even if the right build exists.")
@click.option(
    "--dry-run", is_flag=True, help="Print the build's command and environment; change nothing."
)
def build_command(gpu: bool, mpi: str, jobs: int | None, force: bool, dry_run: bool) -> None:
    """Build Horovod for the TensorFlow, MPI and Python installed here, and install it.

    Built wheels are kept in a cache ($HVDKIT_CACHE, else hvdkit below $XDG_CACHE_HOME or
    ~/.cache), by everything that decides what is in them.
    """
    from hvdkit_cli.building import Options, build

    build(Options(gpu=gpu, mpi=mpi, jobs=jobs, force=force, dry_run=dry_run))


@cli.command("doctor")
@prints_json
@seconds("--timeout", 90.0, "Seconds that each trial (imports, a two-rank job) may take.")
@click.option(
    "--hosts",
    metavar="H1,H2,...",
    help="Look at these hosts in place of this one: ssh, versions, clocks, and how fast a two-rank "
    "allreduce between each two of them is.",
)
@click.option(
    "--interface",
    metavar="NAME",
    help="With --hosts: the network interface that jobs use there, such as eth0.",
)
def doctor_command(json_: bool, timeout: float, hosts: str | None, interface: str | None) -> None:
    """Check what is installed and what works, with a real two-rank allreduce.

    Exit status 1 if a line fails; each such line says what to do.
    """
    from rich.console import Console

    from hvdkit_cli.doctor import examine, examine_hosts
    from hvdkit_cli.doctor.report import as_json, as_table

    with Console(stderr=True).status("examining"):
        if hosts is None:
            checks = examine(timeout)
        else:
            names = [name.strip() for name in hosts.split(",")]
            checks = examine_hosts(names, interface, timeout)
    if json_:
        click.echo(as_json(checks))
    else:
        Console().print(as_table(checks))
    sys.exit(any(check.failed for check in checks))


def _elastic(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    """The fewest and the most ranks of `--elastic 2:8`."""
    if text is None:
        return None
    fewest, _, most = text.partition(":")
    if not fewest.isdigit() or not most.isdigit() or not 0 < int(fewest) <= int(most):
        raise click.BadParameter(f"'{text}' is not FEWEST:MOST, such as 2:8.")
    return int(fewest), int(most)


@cli.command("run", context_settings={**HELP, "allow_interspersed_args": False})
@click.option("-np", "-n", "ranks", type=POSITIVE, help="Number of ranks.")
@click.option("--elastic", metavar="MIN:MAX", callback=_elastic, help="Ranks may come and go.")
@click.option("--discover", metavar="COMMAND", help="Prints the hosts of an elastic job.")
@where_ranks_run
@click.option(
    "--log-dir",
    type=PATH,
    help="Folder for a log of each rank. Default: a new one in hvdkit-logs.",
)
@click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Start again so often when a process or a host was lost; not after a script's own error.",
)
@seconds("--start-timeout", 120.0, "Seconds within which all ranks have to be there.")
@seconds(
    "--lost-timeout", 30.0, "Seconds without a word from a host after which it is lost.", least=5
)
@click.option("--all-output", "-v", "--verbose", is_flag=True, help="Show what all ranks print.")
@click.option("--dry-run", is_flag=True, help="Print the launcher's command and stop.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_command(
    command: tuple[str, ...],
    log_dir: Path | None,
    restarts: int,
    start_timeout: float,
    lost_timeout: float,
    all_output: bool,
    dry_run: bool,
    **asked: Any,
) -> None:
    """Start a job, watch over it, and end with its true exit status: [options] -- COMMAND.

    Finds what starts the ranks: Slurm's srun, mpirun, or Gloo. Each rank has a log file; the
    terminal shows rank 0. See docs/running.md.
    """
    from hvdkit_cli.run import command as running
    from hvdkit_cli.run.attempt import Limits
    from hvdkit_cli.run.request import Request

    request = Request(command, **asked)
    if dry_run:
        click.echo(running.dry_run(request))
        return
    limits = Limits(start_timeout, lost_timeout)
    sys.exit(running.run(request, running.Options(log_dir, restarts, limits, all_output)))


cli.add_command(scale_command)


@cli.command("top")
@click.argument("folder", metavar="LOGDIR", type=PATH)
@click.option("--once", is_flag=True, help="Print what is known now, and stop.")
def top_command(folder: Path, once: bool) -> None:
    """Show what a job does, each second, from what hvd.monitoring.JsonLines(LOGDIR) writes.

    Ctrl-C ends it; the job does not notice.
    """
    from hvdkit_cli.top.command import top

    top(folder, once=once)


cli.add_command(plan_group)
cli.add_command(export_command)
cli.add_command(serve_command)


# What a script is given is its own affair, --help too.
_PASSED_ON = {
    "allow_interspersed_args": False,
    "help_option_names": [],
    "ignore_unknown_options": True,
}


@cli.command("mpirun", context_settings=_PASSED_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mpirun_command(arguments: tuple[str, ...]) -> None:
    """Start a job with mpirun: binding, network, environment (-np N [options] -- COMMAND)."""
    become("hvdkit-mpirun.sh", arguments)


@cli.command("discover-hosts", context_settings=_PASSED_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def discover_hosts_command(arguments: tuple[str, ...]) -> None:
    """Print the hosts of an elastic job, for horovodrun --host-discovery-script ([FILE])."""
    become("discover-hosts.sh", arguments)


def main() -> None:
    """Run the command line; a CommandError becomes two lines on stderr and exit status 1."""
    try:
        cli(prog_name=Path(sys.argv[0]).name)
    except CommandError as error:
        from rich.console import Console

        console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        console.print(f"hvdkit: error: {error.message}", style="bold red")
        console.print(f"  remedy: {error.remedy}")
        sys.exit(1)


if __name__ == "__main__":
    main()
