"""A place to try mpi/hvdkit-mpirun.sh in: launchers that only say what they were given."""

from __future__ import annotations

import shlex
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MPI = ROOT / "mpi"
WRAPPER = MPI / "hvdkit-mpirun.sh"

# The first lines that each launcher prints for --version.
VERSIONS = {
    "openmpi4": "mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/",
    "openmpi5": (
        "mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/"
    ),
    "mpich": (
        "HYDRA build details:\n"
        "    Version:                                 5.0.2\n"
        "    CC:                              cc\n"
        "    Configure options:                       --with-device=ch4:ucx,ofi\n"
        "    Process Manager:                         pmi"
    ),
    "intel": (
        "Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b44796a)\n"
        "Copyright 2003-2026, Intel Corporation."
    ),
}
FLAVOURS = tuple(VERSIONS)
OPEN_MPI = ("openmpi4", "openmpi5")


class Sandbox:
    """A folder with a launcher that only prints its arguments, and an environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.env = {
            "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def launcher(self, version: str, name: str = "mpirun", status: int = 0) -> Path:
        text = (
            "#!/bin/sh\n"
            f'if [ "$1" = --version ]; then printf "%s\\n" {shlex.quote(version)}; '
            f"exit {status}; fi\n"
            'for word; do printf "%s\\n" "$word"; done\n'
        )
        return write_executable(self.bin / name, text)

    def hostfile(self, *lines: str) -> str:
        path = self.folder / "hosts"
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    def run(
        self, *arguments: str, wrapper: str = str(WRAPPER), **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [wrapper, *arguments],
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def command(self, *arguments: str, **env: str) -> list[str]:
        """The words of the dry-run command after the launcher, without what is forwarded."""
        result = self.run("--dry-run", *arguments, **env)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("\n") == 1
        words = shlex.split(result.stdout)
        assert Path(words[0]).parent == self.bin
        return words[1:]


def write_executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def tools_without_mpi(sandbox: Sandbox) -> Path:
    """A folder with what the wrapper calls, and no MPI."""
    tools = sandbox.folder / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "awk", "seq", "sort", "grep", "sed", "paste", "nproc"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    return tools


def has(words: list[str], *sequence: str) -> bool:
    """Whether the words hold the sequence, in order and without gaps."""
    return any(
        words[i : i + len(sequence)] == list(sequence)
        for i in range(len(words) - len(sequence) + 1)
    )


def hosts_of(words: list[str]) -> str:
    for option in ("-H", "-hosts"):
        if option in words:
            return words[words.index(option) + 1]
    raise AssertionError(f"no hosts in {words}")
