"""What `hvdkit scale` makes of speeds: laws, kinds of scaling, what limits, and the page."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

import pytest
from scaled_script import write

from hvdkit.monitoring.measurement import Answer, Measurement, Network, Use
from hvdkit.monitoring.sample import Job, RankSample, Sample
from hvdkit.monitoring.sinks.json_lines import JsonLines
from hvdkit.planner.scaling import AMDAHL, GUSTAFSON, Law, Round, fit_law
from hvdkit_cli.errors import CommandError
from hvdkit_cli.scale.figures import Figures, figures_of
from hvdkit_cli.scale.limits import limit_of
from hvdkit_cli.scale.page import page
from hvdkit_cli.scale.plan import Plan
from hvdkit_cli.scale.result import Result, series_of
from hvdkit_cli.scale.setting import Setting
from hvdkit_cli.scale.words import sentences

pytestmark = pytest.mark.quick


def noisy(law: Law, serial: float, sizes: tuple[int, ...], rounds: int, seed: int) -> list[Round]:
    """Speeds by a law, on a machine whose speed drifts from round to round."""
    draw = random.Random(seed)
    return [
        {
            ranks: drift * law.speed_up(serial, ranks / sizes[0]) * math.exp(draw.gauss(0, 0.02))
            for ranks in sizes
        }
        for drift in (math.exp(draw.gauss(0, 0.2)) for _ in range(rounds))
    ]


@pytest.mark.parametrize("serial", [0.0, 0.02, 0.3, 0.95])
@pytest.mark.parametrize("law", [AMDAHL, GUSTAFSON], ids=lambda law: law.name)
def test_what_is_true_lies_in_the_ranges(law: Law, serial: float) -> None:
    fits = [fit_law(law, noisy(law, serial, (2, 4, 8), 4, seed)) for seed in range(300)]
    assert {(fit.fewest, fit.twice) for fit in fits} == {(2, 16)}
    checks = [fit.check for fit in fits if fit.check is not None]
    found = {
        "serial": sum(fit.serial.holds(serial) for fit in fits),
        "expected": sum(fit.expected.holds(law.speed_up(serial, 8)) for fit in fits),
        "checked": sum(check.predicted.holds(law.speed_up(serial, 4)) for check in checks),
    }
    assert {name for name, count in found.items() if count < 0.92 * len(fits)} == set(), found
    # Ranges that hold everything would say nothing.
    widths = sorted(fit.expected.high / fit.expected.low for fit in fits)  # type: ignore[operator]
    assert widths[len(widths) // 2] < 1.35


def test_exact_speeds_give_the_exact_law() -> None:
    fit = fit_law(AMDAHL, [{1: 100.0, 2: 100 / 0.55, 4: 100 / 0.325}] * 3)
    assert fit.serial.value == pytest.approx(0.1)
    assert fit.expected.value == pytest.approx(1 / (0.1 + 0.9 / 8))
    assert fit.check is not None
    assert fit.check.miss == pytest.approx(0.0, abs=1e-9)


def test_a_law_that_does_not_hold_is_found_out() -> None:
    """Each rank costs more than the one before: nothing that Amdahl knows of."""

    def speed(ranks: int) -> float:
        return 1 / (1 / ranks + 0.02 * (ranks - 1) ** 1.5)

    rounds = [{n: speed(n) * (1 + 0.01 * (i - 1)) for n in (1, 2, 4)} for i in range(3)]
    fit = fit_law(AMDAHL, rounds)
    assert fit.check is not None
    assert fit.check.miss > 0.1
    assert not fit.check.predicted.holds(speed(4) / speed(1))
    bare = fit_law(AMDAHL, [{n: r[n] for n in (2, 4)} for r in rounds]).expected
    assert bare.low is not None
    assert fit.expected.low is not None
    assert fit.expected.value / fit.expected.low >= 1 + fit.check.miss
    assert bare.value / bare.low < 1 + fit.check.miss


@pytest.mark.parametrize(
    "rounds", [[], [{1: 1.0}], [{1: 1.0, 2: 2.0}, {1: 1.0}], [{1: 1.0, 2: 0.0}]]
)
def test_speeds_that_no_law_goes_through(rounds: list[Round]) -> None:
    with pytest.raises(ValueError, match=r"numbers of ranks|positive numbers"):
        fit_law(AMDAHL, rounds)


def test_slower_with_more_ranks() -> None:
    fit = fit_law(AMDAHL, [{1: 1.0, 2: 0.8, 4: 0.5}, {1: 1.0, 2: 0.81, 4: 0.5}])
    assert fit.serial.value == 1
    assert fit.expected.value == 1
    faster = fit_law(GUSTAFSON, [{1: 1.0, 2: 2.4, 4: 5.5}, {1: 1.0, 2: 2.41, 4: 5.5}])
    assert faster.serial.value == 0
    assert faster.expected.value == 8


def test_in_turns_up_and_down() -> None:
    starts = list(Plan([2, 4, 8], 2, weak=True, strong=True).starts())
    found = [(start.ranks, start.divide) for start in starts]
    assert found == [
        *((2, 1), (4, 1), (4, 2), (8, 1), (8, 4)),
        *((8, 1), (8, 4), (4, 1), (4, 2), (2, 1)),
    ]
    only_strong = [(s.ranks, s.divide) for s in Plan([1, 2], 1, weak=False, strong=True).starts()]
    assert only_strong == [(1, 1), (2, 2)]


def test_a_measurement_and_its_answer_come_back_as_they_were(tmp_path: Path) -> None:
    asked = Measurement("/a folder/with 'quotes'", 10, 50, 5, 2)
    assert Measurement.from_environ({"HVDKIT_MEASURE": asked.as_text()}) == asked
    assert Measurement.from_environ({}) is None
    assert Answer.read(tmp_path) is None
    network = Network("eth0", 1000, None)
    answer = Answer([Use(0, "h", 1.0, 0.5, [0, 1], None, [0], 0.9, network)], ["CSVLogger"])
    answer.write(tmp_path)
    assert Answer.read(tmp_path) == answer


def figures(folder: Path, ranks: int, rows: int, seconds: float, exchange: float = 0) -> Figures:
    """What is read of a recorded job; those in the file before do not count."""
    write(folder, ranks, rows, seconds, exchange)
    answer = Answer.read(folder)
    assert answer is not None
    return figures_of(ranks, folder, answer, 10)


def test_figures_of_recorded_samples(tmp_path: Path) -> None:
    found = figures(tmp_path, 4, 64, 0.1, 0.03)
    assert found.values["step_seconds"] == pytest.approx(0.1), "the warm-up counts"
    assert found.speed == pytest.approx(2560)
    assert found.rows_of_a_step == pytest.approx(256)
    assert found.parts is not None
    assert found.parts["exchange"] == pytest.approx(0.03)
    assert found.cores_busy == pytest.approx(0.5)
    assert (found.hosts, found.crowded, found.links) == (1, None, [])
    # A job that had trained before counts its steps from there.
    file = tmp_path / "monitor.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    later = [{**line, "step": line["step"] + 1000} if "step" in line else line for line in lines]
    later[0]["resumed_at"] = 1000
    # A `fit` before it does not count.
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines[:5], *later]))
    answer = Answer.read(tmp_path)
    assert answer is not None
    assert figures_of(4, tmp_path, answer, 10) == found


def test_rows_are_counted_by_the_time_of_each_rank(tmp_path: Path) -> None:
    """Of two ranks with 16 rows each, one waits for the other, which is between two epochs."""
    file = JsonLines(tmp_path)
    file.begin(Job(4, ["here"] * 4, {}))
    seconds = (0.05, 0.01, 0.01, 0.01)
    own = [{"step_seconds": each, "rows_per_second": 16 / each} for each in seconds]
    ranks = [RankSample(rank, "here", values) for rank, values in enumerate(own)]
    # Two ranks hold a replica, and read the same rows.
    job = {"step_seconds": 0.02, "rows_per_second": sum(16 / each for each in seconds) / 2}
    file.log(Sample(20, 1, 10, 0.0, job, ranks))
    file.end()
    found = figures_of(4, tmp_path, Answer(), 10)
    assert found.rows_of_a_step == pytest.approx(32)
    assert found.speed == pytest.approx(32 / 0.02)


def test_ranks_that_do_not_train_together_are_no_speed(tmp_path: Path) -> None:
    """As with an optimizer that is not distributed: rank 0 tells its own rows."""
    figures(tmp_path, 1, 64, 0.1)
    with pytest.raises(CommandError, match="trained by 1 ranks together, and not by 2"):
        figures_of(2, tmp_path, Answer(), 10)


def result_of(folder: Path, rounds: list[dict[int, Figures]]) -> Result:
    setting = Setting("2026-11-27 12:00:00 +0000", "here", "hvdkit scale -x A='<>'", {"keras": "3"})
    series = [series_of(rounds)]
    return Result("python train.py <&>", setting, len(rounds), 50, 10, series, ["A note."])


def test_weak_and_strong_are_told_by_rows(tmp_path: Path) -> None:
    weak = [{n: figures(tmp_path, n, 64, 0.1 + 0.01 * n) for n in (1, 2, 4)}] * 2
    strong = [{n: figures(tmp_path, n, 64 // n, 0.1 / n + 0.01) for n in (1, 2, 4)}] * 2
    neither = [{n: figures(tmp_path, n, 64 // n + 20, 0.1) for n in (1, 2, 4)}] * 2
    kinds = [series_of(rounds) for rounds in (weak, strong, neither)]
    assert [each.kind for each in kinds] == ["weak", "strong", "as it is"]
    laws = [each.fit.law.name if each.fit else None for each in kinds]
    assert laws == ["Gustafson", "Amdahl", None]
    size = kinds[1].sizes[-1]
    assert size.speed_up.value == pytest.approx(0.11 / 0.035)
    assert size.efficiency.value == pytest.approx(0.11 / 0.035 / 4)
    assert "a step has 84, 104, 144 rows" in sentences(result_of(tmp_path, neither))[1]


def test_a_law_that_misses_is_said_to(tmp_path: Path) -> None:
    def rounds(exchange: float) -> list[dict[int, Figures]]:
        by_ranks = {n: 0.1 / n + exchange * (n - 1) ** 2 for n in (1, 2, 4)}
        return [{n: figures(tmp_path, n, 64 // n, s) for n, s in by_ranks.items()}] * 3

    fine, far = (" ".join(sentences(result_of(tmp_path, rounds(e)))) for e in (0, 0.01))
    assert "Without its 4 ranks Amdahl's law says 4.00 (4.00 to 4.00) there" in fine
    assert "does not hold" not in fine
    assert "So Amdahl's law does not hold here: what it says about 8 ranks" in far


def test_what_limits(tmp_path: Path) -> None:
    one, four = figures(tmp_path, 1, 64, 0.1), figures(tmp_path, 4, 64, 0.15, 0.05)
    assert limit_of(one, one, strong=False).startswith("waiting for data: 10 % of a step at 1 rank")
    assert limit_of(four, one, strong=False).startswith("exchange: 33 % of a step at 4 ranks")
    slower = figures(tmp_path, 4, 64, 0.2)
    assert "the same rows take 2 times as long as on 1 rank" in limit_of(slower, one, strong=False)
    assert limit_of(figures(tmp_path, 4, 64, 0.1), one, strong=False).startswith("nothing")
    smaller = figures(tmp_path, 4, 16, 0.05)
    assert "take 2 times as long" in limit_of(smaller, one, strong=True)
    shared = Figures(
        4, four.values, [Use(r, "h", 1.0, 0.5, [0, 1], None, [], None, None) for r in range(4)], []
    )
    assert limit_of(shared, one, strong=False) == (
        "the machine: 4 ranks share the 2 cores of host h, so this says nothing about 4 ranks that "
        "have their own"
    )
    half = Figures(1, one.values, [Use(0, "h", 1.0, 0.5, [0, 1], 0.5, [], None, None)], [])
    assert half.crowded is None, "there is nobody to share with"
    on_gpus = [Use(r, "h", 1.0, 0.5, list(range(8)), None, [r % 2], 0.5, None) for r in range(4)]
    both = Figures(4, four.values, on_gpus, [])
    assert both.crowded == "4 ranks share the 2 GPUs of host h"
    assert both.devices_busy == 0.5
    assert Figures(2, four.values, on_gpus[:2], []).crowded is None
    two = [
        Use(r, f"h{r}", 2.0, 1.0, [0], None, [], None, Network("eth0", 10, 50.0)) for r in range(2)
    ]
    assert Figures(2, one.values, two, []).links == [(5.0, 50.0)] * 2
    bare = Figures(4, {k: v for k, v in four.values.items() if "seconds" not in k}, two, [])
    assert limit_of(bare, bare, strong=False).startswith("not known")


def test_the_page_is_whole_and_quotes_what_it_shows(tmp_path: Path) -> None:
    rounds = [{n: figures(tmp_path, n, 64, 0.1 + 0.01 * n) for n in (1, 2)}]
    picture = tmp_path / "some.png"
    picture.write_bytes(b"\x89PNG")
    text = page(result_of(tmp_path, rounds), picture)
    assert "python train.py &lt;&amp;&gt;" in text
    assert "data:image/png;base64,iVBORw==" in text
    assert "2026-11-27 12:00:00 +0000 on here, with keras 3" in text
    assert "<code>hvdkit scale -x A=&#x27;&lt;&gt;&#x27;</code>" in text
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    said = sentences(result_of(tmp_path, rounds))
    assert any("goes exactly, so nothing checks it" in each for each in said)
    assert any("not known from 1 round: ranges need --rounds 3" in each for each in said)
    assert "95 of 100" not in text
    assert said[-1] == "A note."
