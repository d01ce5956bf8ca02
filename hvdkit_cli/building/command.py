"""`hvdkit build`, from start to end."""

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from rich.console import Console

from hvdkit_cli.building import recipe
from hvdkit_cli.building.cache import WheelCache, cache_root, file_hash
from hvdkit_cli.building.disk import MIB, require_space
from hvdkit_cli.building.install import install, try_import
from hvdkit_cli.building.launcher import with_own_launcher
from hvdkit_cli.building.notice import add_notice
from hvdkit_cli.building.plan import Plan, make_plan
from hvdkit_cli.building.process import log_path, run_logged, tail
from hvdkit_cli.building.progress import BuildProgress
from hvdkit_cli.errors import CommandError
from hvdkit_cli.installed import HOROVOD_VERSION
from hvdkit_cli.record import BuildRecord, read_record

# Compiling one file that includes TensorFlow's headers takes about this much memory.
_MEMORY_PER_JOB = 1536 * MIB
_TEMP_NEED = {"cpu": 600 * MIB, "gpu": 1200 * MIB}
_CACHE_NEED = 100 * MIB
_INSTALL_NEED = 150 * MIB


@dataclass(frozen=True)
class Options:
    """What the user asked `hvdkit build` for.

    Attributes:
        gpu: Build for NVIDIA GPUs.
        mpi: "auto", "wheel", "system", "none" or the path of an mpicxx.
        jobs: Compiler processes at a time; None to choose.
        force: Compile even if the right build exists.
        dry_run: Only print the command and its environment.
    """

    gpu: bool = False
    mpi: str = "auto"
    jobs: int | None = None
    force: bool = False
    dry_run: bool = False


def build(options: Options) -> None:
    """Build and install Horovod as asked, doing no more than is needed.

    Raises:
        CommandError: It can't be done; the error says why and what to do.
    """
    console = Console(soft_wrap=True, highlight=False)
    env = dict(os.environ)
    plan = make_plan(options.gpu, options.mpi, env)
    jobs = options.jobs or default_jobs()
    if options.dry_run:
        _print_recipe(plan, env, jobs)
        return
    console.print(f"Horovod {HOROVOD_VERSION} for {_describe(plan)}")
    _warn(plan, console)
    record = BuildRecord(plan.key(), plan.facts())
    installed = read_record()
    if not options.force and installed is not None and installed.key == record.key:
        console.print("Horovod: installed already, built for just this (--force rebuilds it)")
        _add_notice(console)
        return
    if find_spec("pip") is None:
        raise CommandError(
            f"{sys.executable} has no pip.", f"{sys.executable} -m ensurepip --upgrade"
        )
    try:
        _build_and_install(options, plan, record, env, jobs, console)
    except OSError as error:
        raise CommandError(
            f"The build stopped: {error}.",
            "mend that; HVDKIT_CACHE and TMPDIR move the cache and the temporary files",
        ) from error


def default_jobs() -> int:
    """Return how many compilers to run at a time: one a usable core, as far as memory goes."""
    memory = int(psutil.virtual_memory().available // _MEMORY_PER_JOB)
    return max(1, min(len(os.sched_getaffinity(0)), memory))


def _build_and_install(
    options: Options,
    plan: Plan,
    record: BuildRecord,
    env: Mapping[str, str],
    jobs: int,
    console: Console,
) -> None:
    root = cache_root(env)
    needs = [
        (root, _CACHE_NEED, "set HVDKIT_CACHE to a folder on another disk"),
        (plan.site_packages, _INSTALL_NEED, "make the environment on another disk"),
    ]
    require_space(needs)
    cache = WheelCache(root)
    log = log_path(root / "logs", "build")
    wheel = None if options.force else cache.find(record.key)
    if wheel is not None:
        console.print(f"Horovod: found in the cache ({wheel})")
    else:
        temp = Path(tempfile.gettempdir())
        remedy = "set TMPDIR to a folder on another disk"
        require_space([(temp, _TEMP_NEED[plan.device], remedy), *needs])
        console.print(f"Horovod: building with {jobs} jobs, log in {log}")
        start = time.monotonic()
        wheel = _compile(plan, record, env, jobs, root, log, console)
        console.print(f"Horovod: built in {time.monotonic() - start:.0f} s")
    install(wheel, record, env, log)
    if not try_import(env, log):
        cache.drop(record.key)
        raise CommandError(
            f"Horovod was built but does not import:\n{tail(log, 10)}",
            f"see {log}; check that LD_LIBRARY_PATH names no other MPI or NCCL, then run "
            "`hvdkit build --force`",
        )
    _add_notice(console)
    console.print("Horovod: installed; `hvdkit doctor` checks it with a two-rank job")


def _add_notice(console: Console) -> None:
    try:
        add_notice()
    except OSError as error:  # the environment belongs to somebody else; Horovod works
        console.print(f"warning: Horovod's own Keras module stays without its notice: {error}")


def _compile(
    plan: Plan,
    record: BuildRecord,
    env: Mapping[str, str],
    jobs: int,
    root: Path,
    log: Path,
    console: Console,
) -> Path:
    sdist = _fetch(root / "sdist", env, log)
    with tempfile.TemporaryDirectory(prefix="hvdkit-build-") as scratch:
        link_dir, out = Path(scratch, "lib"), Path(scratch, "wheel")
        recipe.link_nccl(plan, link_dir)
        variables = recipe.build_variables(plan, env, jobs, link_dir)
        variables["TMPDIR"] = scratch
        with log.open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in sorted(record.facts.items()))
            file.writelines(f"{name}={value}\n" for name, value in sorted(variables.items()))
        with BuildProgress(console) as progress:
            status = run_logged(
                recipe.build_command(sdist, out),
                recipe.build_environment(env, variables),
                log,
                progress.feed,
            )
        wheels = sorted(out.glob("*.whl"))
        if status != 0 or not wheels:
            raise CommandError(
                f"Horovod did not build. The end of the log:\n{tail(log)}",
                f"the whole log is in {log}; --jobs 1 helps where memory ran out",
            )
        wheel = with_own_launcher(wheels[0], env, log)
        return WheelCache(root).store(record.key, wheel, record.facts)


def _fetch(folder: Path, env: Mapping[str, str], log: Path) -> Path:
    """Return the sdist, from the cache if it is there and whole, else through pip."""
    sdist = folder / f"horovod-{HOROVOD_VERSION}.tar.gz"
    if sdist.is_file() and file_hash(sdist) == recipe.SDIST_SHA256:
        return sdist
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(recipe.requirement())
        # pip reads the sdist's metadata, which must not look for PyTorch.
        pip_env = {**env, "HOROVOD_WITHOUT_PYTORCH": "1"}
        status = run_logged(recipe.download_command(requirements, Path(scratch)), pip_env, log)
        if status != 0 or not (downloaded := Path(scratch, sdist.name)).is_file():
            raise CommandError(
                f"pip could not download Horovod {HOROVOD_VERSION}:\n{tail(log, 10)}",
                f"check the network and pip's configuration, or put the file {sdist.name} "
                f"(SHA-256 {recipe.SDIST_SHA256}) into {folder}",
            )
        downloaded.replace(sdist)
    return sdist


def _describe(plan: Plan) -> str:
    mpi = f"{plan.mpi.implementation} {plan.mpi.version} ({plan.mpi.source})" if plan.mpi else None
    parts = [f"{plan.tensorflow.distribution} {plan.tensorflow.version}"]
    parts += [mpi or "no MPI", "Gloo"]
    if plan.cuda:
        parts += [f"CUDA {plan.cuda.version}", f"NCCL {plan.cuda.nccl_version}"]
    return ", ".join(parts)


def _warn(plan: Plan, console: Console) -> None:
    if plan.cuda is None or plan.tensorflow.cuda is None:
        return
    ours, theirs = plan.cuda.version.split(".")[0], plan.tensorflow.cuda.split(".")[0]
    if ours != theirs:
        console.print(
            f"warning: the CUDA toolkit is {plan.cuda.version}, TensorFlow was built for "
            f"{plan.tensorflow.cuda}: the driver has to serve CUDA {max(int(ours), int(theirs))}. "
            f"To avoid that, set CUDA_HOME to a toolkit of version {theirs}.",
            style="yellow",
        )


def _print_recipe(plan: Plan, env: Mapping[str, str], jobs: int) -> None:
    """Print the build as a shell would run it, on lines that can be copied."""
    root = cache_root(env)
    scratch = Path(tempfile.gettempdir()) / "hvdkit-build"
    variables = recipe.build_variables(plan, env, jobs, scratch / "lib")
    sdist = root / "sdist" / f"horovod-{HOROVOD_VERSION}.tar.gz"
    print(f"# Horovod {HOROVOD_VERSION} for {_describe(plan)}")
    print(f"# cache key {plan.key()}")
    for name, value in sorted(variables.items()):
        print(f"export {name}={shlex.quote(value)}")
    print(shlex.join(recipe.build_command(sdist, scratch / "wheel")))
