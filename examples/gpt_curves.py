"""Draw the curves of several trainings of examples/gpt.py in one picture.

python examples/gpt_curves.py one.json four.json --output curves.png
"""

from __future__ import annotations

import argparse
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLES = ("-", "--", "-.", ":")


def draw(runs: list[dict[str, Any]], output: Path) -> None:
    """Losses and perplexities of all runs, and how far each is from the first."""
    figure, (losses, differences) = plt.subplots(
        2, 1, figsize=(7, 7), sharex=True, height_ratios=(2, 1)
    )
    first = runs[0]["history"]["val_loss"]
    for number, (run, style) in enumerate(zip(runs, cycle(STYLES), strict=False)):
        history, color = run["history"], f"C{number % 10}"
        epochs = range(1, len(history["loss"]) + 1)
        # The first curve is the widest, so that those on top of it do not hide it.
        width = 1.5 + (len(runs) - 1 - number)
        losses.plot(epochs, history["loss"], style, color=color, linewidth=width, alpha=0.5)
        losses.plot(
            epochs, history["val_loss"], style, color=color, linewidth=width, label=run["mesh"]
        )
        apart = [abs(own - other) for own, other in zip(history["val_loss"], first, strict=False)]
        differences.plot(epochs[: len(apart)], apart, style, color=color)
    losses.set_ylabel("loss (pale: training, full: validation)")
    losses.legend(title="mesh")
    differences.set_xlabel("epoch")
    differences.set_ylabel(f"distance of the validation loss\nfrom {runs[0]['mesh']}", fontsize=8)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", type=Path, help="from examples/gpt.py --history")
    parser.add_argument("--output", type=Path, default=Path("gpt_curves.png"))
    args = parser.parse_args()
    draw([json.loads(file.read_text()) for file in args.histories], args.output)


if __name__ == "__main__":
    main()
