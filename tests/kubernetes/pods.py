"""Pods of an MPIJob, as the operator would make them, on this machine; see pods.sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from launch import ROOT

MANIFEST = ROOT / "mpi/kubernetes.yaml"
ELASTIC = ROOT / "mpi/kubernetes/elastic.yaml"
HOME = "/home/mpiuser"
UID = 1000
_SPACES = ("--mount", "--net", "--uts", "--ipc", "--pid", "--root")
_PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "/usr/sbin/sshd")
# What the operator puts into the launcher's environment, besides empty names of GPUs.
_OPERATOR = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
}


def missing() -> str | None:
    """Why this machine can't have pods; None where it can."""
    if os.geteuid() != 0:
        return "only root can make pods of namespaces"
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (see tests/system_packages.txt)"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlay file system"
    return None


class Pod:
    """A container that runs.

    Args:
        process: what started it here.
        log: what it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def printed(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        """Send a signal to its first process, as Kubernetes does."""
        os.kill(self.first_process(), number)

    def first_process(self) -> int:
        """The process that is number 1 in the container."""
        inside = psutil.Process(self._process.pid).children(recursive=True)
        first = [process.pid for process in inside if _is_first_of_pod(process.pid)]
        return first[0]

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(seconds)

    def wait_for(self, text: str, times: int = 1, seconds: float = 60) -> None:
        """Wait until it has printed a text so many times."""
        end = time.monotonic() + seconds
        while self.printed().count(text) < times:
            assert self._process.poll() is None, f"it has ended: {self.printed()}"
            assert time.monotonic() < end, f"no {text!r} in {seconds} s: {self.printed()}"
            time.sleep(0.05)

    def execute(self, command: Sequence[str], seconds: float = 60) -> None:
        """Run a command in the container, as `kubectl exec` and hooks do."""
        enter = ["nsenter", f"--target={self.first_process()}", *_SPACES]
        user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        subprocess.run([*enter, *user, *command], check=True, timeout=seconds)


class MPIJob:
    """A job of the operator's.

    Args:
        pid: the process whose namespaces hold the pods.
        manifest: the MPIJob.
        folder: for logs.
    """

    def __init__(self, pid: int, manifest: dict[str, Any], folder: Path) -> None:
        self._pid = pid
        self._manifest = manifest
        self._folder = folder
        self._pods: list[Pod] = []
        self.root = Path(f"/proc/{pid}/root")

    def start_workers(self) -> list[Pod]:
        """Start all workers, and wait until they are ready."""
        pods = [self.start_worker(i) for i in range(len(worker_names(self._manifest)))]
        for pod in pods:
            pod.wait_for("Server listening on 0.0.0.0 port 2222")
        return pods

    def start_worker(self, number: int) -> Pod:
        """Start a worker; it may not be ready yet."""
        return self._start("Worker", worker_names(self._manifest)[number], {})

    def list_running(self, *numbers: int) -> None:
        """Let the script for elastic jobs name these workers, as the operator does."""
        names = worker_names(self._manifest)
        _write_discovery(self.root, [f"{names[i]}.{_subdomain(self._manifest)}" for i in numbers])

    def start_launcher(self, command: Sequence[str] | None = None) -> Pod:
        """Start the launcher.

        Args:
            command: what comes in the place of "python ...".
        """
        return self._start("Launcher", f"{_name(self._manifest)}-launcher", _OPERATOR, command)

    def _start(
        self, role: str, name: str, env: Mapping[str, str], command: Sequence[str] | None = None
    ) -> Pod:
        (container,) = self._manifest["spec"]["mpiReplicaSpecs"][role]["template"]["spec"][
            "containers"
        ]
        args = container["args"]
        if command is not None:
            args = [*args[: args.index("python")], *command]
        own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *("nsenter", f"--target={self._pid}", *_SPACES),
                    *(f"--wd=/proc/{self._pid}/root", "/enter-pod"),
                    *(name, container.get("workingDir", "/"), *container["command"], *args),
                ],
                # Of this machine nothing; the rest is the image's and the operator's.
                env={
                    "PATH": "/opt/hvdkit/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    "HOME": HOME,
                    "PYTHONPATH": f"{HOME}/hvdkit",
                    "CUDA_VISIBLE_DEVICES": "",
                    **own,
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._pods.append(Pod(process, log))
        return self._pods[-1]

    def describe(self) -> str:
        """What all pods have printed, for a failing test."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')}"
            for log in sorted(self._folder.glob("*.log"))
        )


def worker_names(manifest: dict[str, Any]) -> list[str]:
    """The names of a job's workers."""
    replicas = manifest["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
    return [f"{_name(manifest)}-worker-{number}" for number in range(replicas)]


@contextmanager
def mpi_job(manifest: dict[str, Any], folder: Path) -> Iterator[MPIJob]:
    """A job whose pods can be started while the block runs, and end with it.

    Args:
        manifest: the MPIJob.
        folder: for logs.
    """
    names = [f"{_name(manifest)}-launcher", *worker_names(manifest)]
    script = [str(Path(__file__).with_name("pods.sh")), _subdomain(manifest), *names]
    spaces = [space for space in _SPACES if space != "--root"]
    with (folder / "pods.log").open("wb") as log:
        box = subprocess.Popen(
            ["unshare", *spaces, "--fork", "--kill-child", "--mount-proc", *script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert box.stdout is not None
        assert box.stdout.readline() == b"ready\n", (folder / "pods.log").read_text()
        [inside] = psutil.Process(box.pid).children()
        _build_image(Path(f"/proc/{inside.pid}/root"))
        _mount_what_the_operator_makes(Path(f"/proc/{inside.pid}/root"), manifest)
        yield MPIJob(inside.pid, manifest, folder)
    finally:
        box.kill()
        box.communicate()


def _build_image(root: Path) -> None:
    """What the Dockerfile's last stage copies; this machine's environment is its /opt/hvdkit."""
    _become_the_first(root / "etc/passwd", f"mpiuser:x:{UID}:{UID}::{HOME}:/bin/bash")
    _become_the_first(root / "etc/group", f"mpiuser:x:{UID}:")
    (root / "opt/hvdkit").symlink_to(sys.prefix)
    for prefix in (sys.prefix, sys.base_prefix):
        _let_all_read(root, Path(prefix).resolve())
    text = (ROOT / "mpi/kubernetes/Dockerfile").read_text()
    for source, target in re.findall(r"^COPY (?:--chown=\w+ )?(\S+) (/\S+)$", text, re.M):
        _copy(ROOT / source, root / target.lstrip("/"))
    for package in ("hvdkit", "hvdkit_cli"):
        _copy(ROOT / package, root / HOME.lstrip("/") / "hvdkit" / package)
    for path in (root / "home").rglob("*"):
        os.chown(path, UID, UID, follow_symlinks=False)


def _become_the_first(path: Path, line: str) -> None:
    """Before others of this machine's that have the same number."""
    path.write_text(f"{line}\n{path.read_text()}")


def _let_all_read(root: Path, folder: Path) -> None:
    """The way to a folder, for those who are not root."""
    for parent in folder.parents:
        there = root / parent.relative_to("/")
        there.chmod(there.stat().st_mode | 0o055)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy(source, target)


def _mount_what_the_operator_makes(root: Path, manifest: dict[str, Any]) -> None:
    """The keys, the host file and the script for elastic jobs, with the modes that they get."""
    keys = root / manifest["spec"]["sshAuthMountPath"].lstrip("/")
    keys.mkdir(parents=True)
    private = keys / "id_rsa"
    make = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f"]
    subprocess.run([*make, str(private)], check=True)
    shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
    for path in keys.iterdir():
        path.chmod(0o644)
    hosts = [f"{name}.{_subdomain(manifest)}" for name in worker_names(manifest)]
    slots = manifest["spec"]["slotsPerWorker"]
    folder = root / "etc/mpi"
    folder.mkdir()
    (folder / "hostfile").write_text("".join(f"{host} slots={slots}\n" for host in hosts))
    _write_discovery(root, hosts)


def _write_discovery(root: Path, hosts: Sequence[str]) -> None:
    """In one step, as a ConfigMap changes."""
    new = root / "etc/mpi/new"
    new.write_text("#!/bin/sh\n" + "".join(f"echo {host}\n" for host in hosts))
    new.chmod(0o555)
    new.rename(root / "etc/mpi/discover_hosts.sh")


def _is_first_of_pod(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = re.search(r"^NSpid:(.*)$", status, re.M)[1].split()
    uid = re.search(r"^Uid:\s*(\d+)", status, re.M)[1]
    return numbers[-1] == "1" and int(uid) == UID


def _subdomain(manifest: dict[str, Any]) -> str:
    return f"{_name(manifest)}-worker.default.svc"


def _name(manifest: dict[str, Any]) -> str:
    return manifest["metadata"]["name"]
