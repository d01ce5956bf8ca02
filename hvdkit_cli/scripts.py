"""The shell scripts that come with hvdkit: the wrapper of mpirun, and the list of hosts.

In a checkout the folder is a link to mpi/; in a wheel it holds the files themselves.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hvdkit_cli.errors import CommandError

FOLDER = Path(__file__).parent / "mpi"


def become(name: str, arguments: Sequence[str]) -> NoReturn:
    """Put a script in the place of this process, so signals and the exit status are its own.

    Args:
        name: The script's file, e.g. "hvdkit-mpirun.sh".
        arguments: Its arguments.

    Raises:
        CommandError: The installation lacks it, or there is no bash.
    """
    script = FOLDER.resolve() / name
    if not script.is_file():
        raise CommandError(
            f"{script} is missing: hvdkit is installed without its scripts.",
            "pip install --force-reinstall --no-deps hvdkit, or start it from a checkout",
        )
    try:
        os.execvp("bash", ["bash", str(script), *arguments])
    except OSError as error:
        raise CommandError(f"{name} could not be started: {error}.", "install bash 4.4") from error
