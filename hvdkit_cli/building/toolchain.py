"""Find the programs that a build needs: C and C++ compilers, make, CMake."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import distribution, installed_file

CMAKE = SpecifierSet(">=3.18,<4")

_INSTALL_COMPILER = (
    "install one (Debian, Ubuntu: apt install g++ make; Fedora: dnf install gcc-c++ make), "
    "or set CXX and CC to yours"
)
_CXX17_PROGRAM = "#include <variant>\nstd::variant<int, float> v;\nint main() { return 0; }\n"


@dataclass(frozen=True)
class Toolchain:
    """The programs of a build.

    Attributes:
        cxx: The C++ compiler.
        cc: The C compiler (Gloo's build asks for one).
        version: First line of the C++ compiler's `--version`.
        cmake: The cmake program.
    """

    cxx: Path
    cc: Path
    version: str
    cmake: Path


def run(
    command: list[str], env: Mapping[str, str] | None = None, text: str = "", timeout: float = 60
) -> str | None:
    """Run a short program.

    Args:
        command: The program and its arguments.
        env: Its whole environment; this process's if None.
        text: What to give it on standard input.
        timeout: Seconds that it may take.

    Returns:
        Its standard output, or None if it could not run, failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            env=None if env is None else dict(env),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_toolchain(env: Mapping[str, str]) -> Toolchain:
    """Find compilers, make and CMake in the order in which CMake would.

    Args:
        env: The environment to look in: PATH, CXX and CC decide.

    Raises:
        CommandError: One is missing or does not work.
    """
    cxx = _find_compiler(env, "CXX", ("c++", "g++", "clang++"), "C++")
    cc = _find_compiler(env, "CC", ("cc", "gcc", "clang"), "C")
    source = ["-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    if run([str(cxx), *source], env, _CXX17_PROGRAM) is None:
        raise CommandError(
            f"The C++ compiler {cxx} does not compile a small C++17 program.", _INSTALL_COMPILER
        )
    if which(env, "make") is None and which(env, "gmake") is None:
        raise CommandError("There is no `make` on PATH.", _INSTALL_COMPILER)
    lines = (run([str(cxx), "--version"], env) or "unknown").splitlines()
    return Toolchain(cxx, cc, lines[0] if lines else "unknown", find_cmake(env))


def find_cmake(env: Mapping[str, str]) -> Path:
    """Find a CMake that Horovod's build files work with: this environment's, else on PATH.

    Raises:
        CommandError: There is none, or only one of another version.
    """
    found = distribution("cmake")
    candidates = [installed_file(found, "bin/cmake") if found else None, which(env, "cmake")]
    seen = []
    for candidate in candidates:
        if candidate is None:
            continue
        match = re.search(
            r"version\s+(\d+(?:\.\d+)+)", run([str(candidate), "--version"], env) or ""
        )
        if match is None:
            continue
        if match.group(1) in CMAKE:
            return candidate
        seen.append(f"{candidate} is version {match.group(1)}")
    raise CommandError(
        f"There is no CMake {CMAKE}" + (f": {', '.join(seen)}." if seen else "."),
        f"{sys.executable} -m pip install 'cmake{CMAKE}'",
    )


def which(env: Mapping[str, str], name: str) -> Path | None:
    """Find a program on the PATH of `env` (which may hold none)."""
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    return Path(found) if found else None


def _find_compiler(
    env: Mapping[str, str], variable: str, names: tuple[str, ...], language: str
) -> Path:
    if chosen := env.get(variable, "").strip():
        program = chosen.split()[0]
        found = which(env, program)
        if found is None:
            raise CommandError(
                f"{variable}={chosen}, but there is no {program}.", f"mend or unset {variable}"
            )
        return found
    for name in names:
        if found := which(env, name):
            return found
    raise CommandError(
        f"There is no {language} compiler on PATH (looked for {', '.join(names)}).",
        _INSTALL_COMPILER,
    )
