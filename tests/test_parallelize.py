"""Ordinary models that are divided over ranks by themselves."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rank_checks import Check
from rank_pool import RankPools

from hvdkit.parallel.automatic.choice import Choice, choose, exchanges_for
from hvdkit.planner.cluster import Cluster, Hosts
from hvdkit.planner.devices import Device, Rate
from hvdkit.planner.job import PlannedJob
from hvdkit.planner.layered import Block, LayeredModel
from hvdkit.planner.links import Link, Network
from hvdkit.planner.transformer import Degrees

JOBS = [("parallelize", "mpi", 2)]
LONG_JOBS = [("parallelize_meshes", "mpi", 4)]


def test_on_ranks(pools: RankPools, check: Check) -> None:
    pools.require(check)


BLOCK = Block(flops=2e6, kept=100, weights=1000, trained=1000, calls=2, leaving=50)
SHARD = replace(BLOCK, flops=1e6, kept=60, weights=500, trained=500, sums=4, summed=200)
MODEL = LayeredModel("four", {1: (BLOCK,) * 4, 2: (SHARD,) * 4}, {4: "its heads are 2"})
JOB = PlannedJob(64, "float32")


def cluster(memory: float) -> Cluster:
    """Two hosts with two devices each, whose links have a latency that tensor groups pay often."""
    device = Device("small", {32: Rate(1e12, 1e12)}, memory, 1e11)
    network = Network(Link(1e9, 1e-4), Link(1e9, 1e-5))
    return Cluster("small ones", (Hosts(2, 2, device),), network)


def chosen(memory: float, model: LayeredModel = MODEL) -> Choice:
    return choose(model, cluster(memory), JOB, exchanges_for(None))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("memory", "degrees", "exchange", "no_stages"),
    [
        (100e3, Degrees(data=4), "all-reduce", None),
        (75e3, Degrees(data=4), "sharded", None),
        (65e3, Degrees(pipeline=4), "all-reduce", None),
        (65e3, Degrees(data=2, tensor=2), "all-reduce", "there is no MPI."),
    ],
)
def test_the_fastest_mesh_that_fits(
    memory: float, degrees: Degrees, exchange: str, no_stages: str | None
) -> None:
    choice = chosen(memory, replace(MODEL, no_stages=no_stages))
    assert (choice.degrees, choice.exchange) == (degrees, exchange), choice
    assert (choice.micro_batches is not None) == (degrees.pipeline > 1)
    assert "planned for small ones, 64 rows a step" in choice.reason
    assert "no layer divides over 4 ranks: its heads are 2" in " ".join(choice.others.values())
    if memory < 80e3:
        assert "a rank needs" in choice.others["data 4 x pipeline 1 x tensor 1, all-reduce"]
    else:
        assert "takes" in choice.others["data 2 x pipeline 1 x tensor 2, all-reduce"]


@pytest.mark.quick
def test_stages_where_nothing_else_fits() -> None:
    """With statistics over the rows of a micro-batch there is one."""
    choice = chosen(30e3)
    assert choice.degrees == Degrees(pipeline=4)
    assert choice.micro_batches is not None
    assert choice.micro_batches > 4
    one = chosen(45e3, replace(MODEL, micro_batches=1, divisions={1: (BLOCK,) * 4}))
    assert one.degrees == Degrees(data=1, pipeline=4)
    assert one.micro_batches == 1


@pytest.mark.quick
@pytest.mark.parametrize(
    ("model", "text"),
    [
        (MODEL, "a rank needs"),
        (replace(MODEL, no_stages="stages send over MPI."), "stages send over MPI"),
        (replace(MODEL, divisions={1: (BLOCK,) * 2}), "into 2 stages at most, not 4"),
    ],
)
def test_no_mesh_fits(model: LayeredModel, text: str) -> None:
    with pytest.raises(ValueError, match="'four' fits on no mesh of 4 ranks with batches of 64"):
        chosen(5e3, model)
    with pytest.raises(ValueError, match=text):
        chosen(5e3, model)


@pytest.mark.quick
def test_tied_weights_are_held_twice() -> None:
    last = replace(BLOCK, kept=1000)
    tied = replace(MODEL, divisions={1: (BLOCK, replace(last, tied=1000))})
    plain = replace(MODEL, divisions={1: (BLOCK, last)})
    stages = Degrees(pipeline=2)
    assert tied.memory(stages, JOB, 8) == plain.memory(stages, JOB, 8) + 8000
    assert tied.memory(Degrees(), JOB, 8) == plain.memory(Degrees(), JOB, 8)


@pytest.mark.quick
def test_what_is_counted_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of both Dense layers, the sums of a pair, and where it can be cut."""
    import keras

    from hvdkit.graph.flattening import flattened
    from hvdkit.parallel.automatic.counted import counted

    x = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(x)
    model = keras.Model(x, keras.layers.Dense(4)(hidden), name="pair")
    found = counted(model, flattened(model), [1, 2, 64], None, True, None)
    whole, shard = (found.divisions[degree] for degree in (1, 2))
    assert found.parameters == model.count_params() == 8 * 32 + 32 + 32 * 4 + 4
    assert [(b.flops, b.kept, b.leaving) for b in whole] == [(512, 32, 32), (256, 4, 0)]
    assert [b.weights for b in shard] == [4 * 32 + 16, 16 * 4 + 4]
    assert [(b.sums, b.summed) for b in shard] == [(1, 8), (1, 4)]
    assert [(b.flops, b.kept) for b in shard] == [(256, 16), (128, 4)]
    assert "32 does not divide by 64" in found.indivisible[64]


@pytest.mark.quick
def test_a_picture_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hvdkit.parallel.automatic.picture import _figure
    from hvdkit.parallel.automatic.placed import PlacedLayer
    from hvdkit.parallel.automatic.report import ParallelPlan

    layers = [PlacedLayer("embedding", 0, "rows", 40), PlacedLayer("up", 0, "outputs", 60)]
    layers += [PlacedLayer("down", 1, "inputs", 60), PlacedLayer("norm", 1, "whole", 5)]
    plan = ParallelPlan("both", "as given", "an average", Degrees(2, 2, 2), placed=layers)
    first, second = plan.stages()
    assert first == (
        "[rank 0, 4] [rank 1, 5] 50 weights each\n"
        "embedding to up: 2 layers with weights, 2 of them sharded"
    )
    assert "[rank 2, 6] [rank 3, 7] 35 weights each" in second
    figure = _figure(plan)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "embedding",
        "up",
        "down",
        "norm",
    ]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "rank 0, 4", "rank 1, 5", "rank 2, 6", "rank 3, 7",
    ]  # fmt: skip
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    filled = [patch for patch in axes.patches if patch.get_fill()]
    assert len(frames) == len(filled) == 8
    of_shards = [patch.get_x() for patch in filled[2:4]]
    assert of_shards == pytest.approx([0.1, 1.1 + 0.4])
    figure.savefig(tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'hvdkit\[plot\]'"):
        _figure(plan)
