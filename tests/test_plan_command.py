"""The command `hvdkit plan` and clusters' files: tables, JSON, and one error for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from launch import ROOT
from test_plan import CLUSTER

from hvdkit.planner.cluster_file import ClusterFileError, parse_cluster
from hvdkit_cli.errors import CommandError
from hvdkit_cli.main import cli
from hvdkit_cli.plan.measure import as_yaml

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("100 TFLOP/s,", "100,", 8, "rates.16-bit.peak: '100' has no unit"),
        ("100 GB/s", "100 GB", 14, "GB is no unit of a rate of bytes"),
        ("100 GB/s", "-100 GB/s", 14, "negative"),
        ("80 TFLOP/s", "-80 TFLOP/s", 8, "rates.16-bit.attainable: '-80 TFLOP/s' is negative"),
        ("1 TB/s", "{peak: 1 TB/s, attainable: 2 TB/s}", 10, "above the peak"),
        ("1 TB/s", "{peak: 1 TB/s}", 10, "bandwidth.attainable is missing"),
        ("80 TFLOP/s", "80 TFLOP/s, sides: {64: 300 TFLOP/s}", 8, "64 is above the peak"),
        ("80 TFLOP/s", "80 TFLOP/s, sides: {wide: 1 TFLOP/s}", 8, "'wide' is no side"),
        ("80 TFLOP/s", "80 TFLOP/s, sides: {}", 8, "sides names no side"),
        ("1 TB/s", "1 TB/s\n      operation: 0 us", 11, "has to be above 0"),
        ("latency: 20 us}", "latency: 20 us}\n  hidden: 1.5", 16, "from 0 to 1"),
        ("100 GB/s", "0 GB/s", 14, "has to be above 0"),
        ("80 TFLOP/s", "120 TFLOP/s", 8, "above the peak"),
        ("memory: 16 GiB", "memry: 16 GiB", 9, "hosts[0].device.memry is not known"),
        ("      memory: 16 GiB\n", "", 7, "hosts[0].device.memory is missing"),
        ("count: 2", "count: 1.5", 4, "no whole number"),
        ("count: 2", "count: 0", 4, "below 1"),
        ("devices: 4", "devices: 4\n    devices: 8", 6, "is there twice"),
        ("  between: {bandwidth: 100 Gb/s, latency: 20 us}\n", "", 14, "links.between is missing"),
        ("pue: 1.2", "pue: 0.5", 16, "below 1"),
        ("16 GiB", "nan GiB", 9, "is not a number of bytes"),
        ("16 GiB", "1e999 GiB", 9, "negative or not finite"),
    ],
)
def test_a_wrong_file_is_one_error_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert old in CLUSTER
    with pytest.raises(ClusterFileError) as caught:
        parse_cluster(CLUSTER.replace(old, new, 1), "mine.yaml")
    assert f"mine.yaml, line {line}:" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "- 1", "hosts: [", "a: 1", "name: x\nhosts: 3\nlinks: {}"])
def test_what_is_no_cluster(text: str) -> None:
    with pytest.raises(ClusterFileError, match=r"mine\.yaml"):
        parse_cluster(text, "mine.yaml")


def run(*arguments: str, file: Path | None = None) -> str:
    cluster = ["--cluster", str(file)] if file else []
    result = CliRunner().invoke(cli, ["plan", *cluster, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(CLUSTER)
    return path


def test_a_table_and_json(file: Path) -> None:
    asked = ("--model", "gpt2-small", "--batch", "64", "--tokens", "10B")
    text = run(*asked, file=file)
    for part in ("two hosts", "Best: data", "USD", "MWh", "t CO2", "steps take"):
        assert part in text
    found = json.loads(run(*asked, "--json", file=file))
    best = found["best"]
    assert best == next(each for each in found["candidates"] if each["usable"])
    assert best["step_seconds"] == pytest.approx(sum(best["parts_seconds"].values()))
    assert found["steps"] == pytest.approx(10e9 / 64 / 1024)
    assert best["kwh"] == pytest.approx(best["days"] * 24 * 8 * 250 * 1.2 / 1000)
    assert best["money"] == pytest.approx(best["days"] * 24 * 8 * 2 + 0.1 * best["kwh"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "gpt9", "--batch", "8"), "there is no model 'gpt9'"),
        (("--batch", "8", "--layers", "2"), "--width --heads --context --vocabulary are missing"),
        (("--model", "resnet-50", "--batch", "8", "--width", "3"), "has no --width"),
        (("--model", "gpt2-small", "--batch", "7", "--mesh", "8x1x1"), "by 8 replicas"),
        (("--model", "gpt2-small", "--batch", "8", "--heads", "7"), "does not divide by 7"),
        (("--model", "gpt2-small", "--batch", "8", "--mesh", "1x1x16"), "has 16 ranks"),
        (("--model", "gpt2-small", "--batch", "8", "--mesh", "1x1x8"), "the tensor degree"),
        (("--model", "gpt2-small", "--batch", "8", "--mesh", "8"), "is no mesh"),
        (("--model", "gpt2-small", "--batch", "8", "--exchange", "none"), "no exchange 'none'"),
        (("--model", "gpt2-small", "--batch", "8", "--precision", "fp8"), "no precision 'fp8'"),
        (("--model", "gpt2-small", "--batch", "8", "--precision", "float32"), "with 32 bits"),
        (("--model", "gpt2-small", "--batch", "8", "--recompute", "selective"), "Keras's layers"),
        (("--model", "gpt2-small", "--batch", "8", "--tokens", "many"), "no number above 0"),
        (("--model", "gpt3-13b", "--batch", "8"), "a rank needs"),
        (("--parameters", "1M", "--batch", "8"), "needs --flops"),
        (("--keras", "nowhere.keras", "--batch", "8"), "there is no file"),
        (("--model", "gpt3-13b", "--batch", "8", "--mesh", "8x1x1"), "the least is data 8"),
        (("--parameters", "9e12", "--flops", "1G", "--batch", "8"), "fits on no mesh of 8 ranks"),
    ],
)
def test_one_error_each(file: Path, arguments: tuple[str, ...], says: str) -> None:
    result = CliRunner().invoke(cli, ["plan", "--cluster", str(file), *arguments])
    assert isinstance(result.exception, CommandError), result.output
    assert says in result.exception.message
    assert result.exception.remedy


def test_what_nothing_fits_says_the_least_that_would(file: Path) -> None:
    arguments = ["plan", "--cluster", str(file), "--model", "gpt3-13b", "--batch", "8"]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, CommandError)
    assert "it fits on" in error.remedy
    options = error.remedy.rpartition(": ")[2].split()
    assert "Best" in run(*arguments[3:], *options, file=file)


MIXED = CLUSTER.replace(
    "links:",
    """  - count: 1
    devices: 8
    device:
      name: slow
      rates: {16-bit: {peak: 50 TFLOP/s, attainable: 20 TFLOP/s}}
      memory: 4 GiB
      bandwidth: 250 GB/s
links:""",
)


def test_a_cluster_of_unequal_devices(tmp_path: Path) -> None:
    """A step waits for the slowest, rows by speed or not, and the smallest memory has to do."""
    file = tmp_path / "mixed.yaml"
    file.write_text(MIXED)
    asked = ("--model", "gpt2-small", "--context", "128", "--batch", "512", "--mesh", "16x1x1")
    text = run(*asked, file=file)
    assert "8 x fast, 8 x slow" in text
    assert "--share-rows" in text

    def seconds(*more: str) -> float:
        found = json.loads(run(*asked, *more, "--json", file=file))
        assert found["ranks"] == 16 or "--ranks" in more
        return float(found["best"]["step_seconds"])

    waits, shares = seconds(), seconds("--share-rows")
    assert shares < 0.7 * waits  # the mean of 4 and 1 is 2.5 times the slowest
    large = ("--model", "gpt3-1.3b", "--context", "128", "--batch", "16")
    arguments = ["plan", "--cluster", str(file), *large, "--mesh", "8x1x2"]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, CommandError)
    assert "has 4 GiB" in error.message
    # The first 8 are fast, and have 16 GiB.
    assert "Best" in run(*large, "--ranks", "8", "--mesh", "4x1x2", file=file)


def test_measured_machines_are_a_file_that_plan_reads(tmp_path: Path) -> None:
    def sides(speed: int) -> dict[str, float]:
        return {"128": 3e10 * speed, "1024": 5e10 * speed, "512": 4e10 * speed}

    ranks = [
        {
            "host": host, "rates": {"32-bit": sides(speed)}, "bandwidth": 1e10,
            "elements": 4e9, "operation": 2e-5, "memory": 2**33, "device": "CPU share",
            "local_size": 2,
        }
        for host, speed in (("a", 1), ("a", 1), ("b", 2), ("b", 2))
    ]  # fmt: skip
    table = {"4096": 1e-4, "1048576": 1e-3}
    found = {"ranks": ranks, "all_reduce": table, "hidden": 0.25}
    inside = {"ranks": ranks[:2], "all_reduce": table, "hidden": 0.5}
    between = {"ranks": ranks[::2], "all_reduce": {"4096": 1e-3, "1048576": 1e-1}}
    cluster = parse_cluster(as_yaml(found, inside, between))
    assert cluster.ranks == 4
    assert not cluster.equal
    assert cluster.network.in_turn
    assert cluster.network.hidden == 0.25
    slow = cluster.hosts[0].device
    assert (slow.bandwidth, slow.elements, slow.operation) == (1e10, 4e9, pytest.approx(2e-5))
    rate = slow.rate(32)
    assert rate.attainable == 5e10
    products = [2.0 * side**3 for side in (64, 128, 724, 4096)]
    found = [rate.of_product(operations) for operations in products]
    assert found == pytest.approx([3e10, 3e10, 4.5e10, 5e10], rel=1e-3)
    assert cluster.network.all_reduce(2**20, 2, 2, 2) == pytest.approx(0.101)
    alone = parse_cluster(as_yaml(inside, inside, None))
    assert alone.equal
    assert alone.network.between is None


PURE = """
import sys
from hvdkit_cli.main import cli
cli(["plan", "--model", "gpt3-1.3b", "--cluster", "dgx-a100", "--batch", "256"],
    standalone_mode=False)
loaded = {"tensorflow", "keras", "horovod", "mpi4py"} & sys.modules.keys()
assert not loaded, loaded
"""


def test_a_plan_loads_no_tensorflow_and_no_horovod() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PURE], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Best: data" in done.stdout
