"""Slurm's own launcher, where it can tell MPI's ranks of each other."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from hvdkit_cli.run.launchers.base import as_line, on_path, without_mpi
from hvdkit_cli.run.request import Job

_BINDINGS = {"auto": "cores", "core": "cores", "numa": "ldoms", "none": "none"}
_ASK_SECONDS = 20.0


class Srun:
    """srun, with PMIx."""

    name = "srun"
    in_words = "srun"

    def problem(self, job: Job) -> str | None:
        """Why it can't start this job here; None if it can."""
        if job.request.elastic is not None:
            return "MPI has no elastic jobs"
        if job.place.kind != "slurm":
            inside = "SLURM_JOB_ID" in job.environ
            return (
                "it takes the hosts of the Slurm job, and not those of -H or --hostfile"
                if inside
                else "this is no Slurm job (sbatch or salloc makes one)"
            )
        return without_mpi() or on_path(job, "srun") or _without_pmix(job)

    def command(self, job: Job, ranks_command: Sequence[str]) -> list[str]:
        """The command line that starts the ranks."""
        # Input goes to rank 0, as mpirun has it.
        options = ["--mpi=pmix", f"--ntasks={job.ranks}", "--input=0"]
        if job.ranks < len(job.place.hosts):
            options += [f"--nodes={job.ranks}"]
        if cores := job.environ.get("SLURM_CPUS_PER_TASK"):
            # srun does not take it over from sbatch since Slurm 22.05.
            options += [f"--cpus-per-task={cores}"]
        options += [f"--cpu-bind={_BINDINGS[job.request.bind]}", "--kill-on-bad-exit=1"]
        if job.request.oversubscribe:
            options += ["--overcommit"]
        return ["srun", *options, *ranks_command]

    def shown(self, job: Job) -> str:
        """What `--dry-run` prints."""
        return as_line(job, self.command(job, job.request.command))


def _without_pmix(job: Job) -> str | None:
    try:
        done = subprocess.run(
            ["srun", "--mpi=list"],
            env=job.environ,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"`srun --mpi=list` has not answered within {_ASK_SECONDS:g} s"
    if "pmix" in done.stdout + done.stderr:
        return None
    return "this Slurm has no PMIx (`srun --mpi=list`): its tasks would not find each other"
