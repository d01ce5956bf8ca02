"""Draw the curves of one or several trainings of examples/ner.py in one picture.

python examples/ner_curves.py one.json two.json --output curves.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator


def draw(runs: Sequence[dict[str, Any]], output: Path) -> None:
    """The losses of all runs, and their F1 on what is held out; runs of one title in one colour."""
    figure, (losses, scores) = plt.subplots(2, 1, figsize=(7, 7), sharex=True)
    colors: dict[str, str] = {}
    for run in runs:
        title, history = run["title"], run["history"]
        label = title if title not in colors else None
        color = colors.setdefault(title, f"C{len(colors) % 10}")
        epochs = range(1, len(history["loss"]) + 1)
        losses.plot(epochs, history["loss"], color=color, label=label)
        scores.plot(epochs, history["val_f1"], color=color, marker="o", markersize=3)
    losses.set_ylabel("loss of the training")
    losses.legend()
    scores.set_ylabel("entity F1 of the development set (%)")
    scores.set_xlabel("epoch")
    scores.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", type=Path, help="from examples/ner.py --history")
    parser.add_argument("--output", type=Path, default=Path("ner_curves.png"))
    args = parser.parse_args()
    draw([json.loads(file.read_text()) for file in args.histories], args.output)


if __name__ == "__main__":
    main()
