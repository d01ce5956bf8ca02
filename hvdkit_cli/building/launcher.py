"""Give the built wheel our `horovodrun` for an entry point; see `hvdkit_cli.horovodrun`."""

import sys
from collections.abc import Mapping
from pathlib import Path

from hvdkit_cli.building.process import run_logged, tail
from hvdkit_cli.errors import CommandError

ENTRY_POINT = "horovodrun = hvdkit_cli.horovodrun:main"


def with_own_launcher(wheel: Path, env: Mapping[str, str], log: Path) -> Path:
    """Repack a wheel so that pip installs our `horovodrun` in place of Horovod's.

    Args:
        wheel: The wheel as it was built.
        env: The environment for the tools.
        log: The log to append to.

    Returns:
        The new wheel, in a folder beside the old one.

    Raises:
        CommandError: The wheel could not be unpacked or packed.
    """
    unpacked, packed = wheel.parent / "unpacked", wheel.parent / "packed"
    packed.mkdir()
    _run("unpack", ["--dest", str(unpacked), str(wheel)], env, log)
    (content,) = unpacked.iterdir()
    (entry_points,) = content.glob("*.dist-info/entry_points.txt")
    entry_points.write_text(f"[console_scripts]\n{ENTRY_POINT}\n")
    _run("pack", ["--dest-dir", str(packed), str(content)], env, log)
    (result,) = packed.glob("*.whl")
    return result


def _run(action: str, arguments: list[str], env: Mapping[str, str], log: Path) -> None:
    command = [sys.executable, "-m", "wheel", action, *arguments]
    if run_logged(command, env, log) != 0:
        raise CommandError(
            f"The wheel could not be {action}ed:\n{tail(log, 10)}",
            f"{sys.executable} -m pip install --upgrade wheel",
        )
