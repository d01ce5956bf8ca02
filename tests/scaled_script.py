"""Stands for a training whose speed is known: it writes what the ranks of a measured one write.

    hvdkit scale --ranks 1,2,4 -- python tests/scaled_script.py SERIAL OF_EACH_RANK [ROWS]

By Amdahl's law with a serial share, and with so many more seconds of a step for each rank. A rank
has ROWS in a batch, which are divided where `hvdkit scale` asks for it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from hvdkit.monitoring.measurement import Answer, Measurement, Use
from hvdkit.monitoring.sample import Job, Sample
from hvdkit.monitoring.sinks.json_lines import JsonLines
from hvdkit_cli.launched import rank_of

ROWS, SECONDS = 64, 0.1
SAMPLES, STEPS = 14, 5


def main() -> None:
    asked = Measurement.from_environ(os.environ)
    assert asked is not None
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ["HOROVOD_SIZE"])
    if rank_of(os.environ) != 0:
        return
    serial, each = float(sys.argv[1]), float(sys.argv[2])
    rows = (int(sys.argv[3]) if len(sys.argv) > 3 else ROWS) // asked.divide
    if rows == 0:
        Answer(refused="the rows can't be divided").write(Path(asked.folder))
        return
    seconds = SECONDS * (serial + (1 - serial) * rows / ROWS) + each * (size - 1)
    write(Path(asked.folder), size, rows, seconds, each * (size - 1))


def write(folder: Path, ranks: int, rows: int, seconds: float, exchange: float) -> None:
    """Write the samples of a job, and its answer.

    Args:
        folder: of the start.
        ranks: how many.
        rows: of a rank in a step.
        seconds: of a step, but for the warm-up.
        exchange: seconds of a step that this takes.
    """
    file = JsonLines(folder)
    file.begin(Job(ranks, ["here"] * ranks, {}))
    for number in range(SAMPLES):
        step = 7 * seconds if number < 2 else seconds
        values = {
            "rows_per_second": ranks * rows / step,
            "step_seconds": step,
            "compute_seconds": 0.9 * (step - exchange),
            "exchange_seconds": exchange,
            "waiting_for_ranks_seconds": 0.0,
            "waiting_for_data_seconds": 0.1 * (step - exchange),
            "rest_seconds": 0.0,
            "sent_bytes": 1e6 if ranks > 1 else 0.0,
        }
        file.log(Sample(1 + STEPS * (number + 1), 1, STEPS, 0.0, values))
    file.end()
    use = Use(0, "here", 1.0, 0.5, [0], None, [], None, None)
    uses = [replace(use, rank=rank, cores=[rank]) for rank in range(ranks)]
    Answer(uses, ["ModelCheckpoint"]).write(folder)


if __name__ == "__main__":
    main()
