"""A divided model as a picture: what each rank of a replica holds of each layer."""

from __future__ import annotations

import os
from typing import Any

import keras

from hvdkit.engine import topology
from hvdkit.parallel.automatic.compiling import plan_of
from hvdkit.parallel.automatic.placed import How, PlacedLayer
from hvdkit.parallel.automatic.report import ParallelPlan

_COLORS: dict[How, str] = {
    "outputs": "#4c72b0",
    "inputs": "#dd8452",
    "rows": "#55a868",
    "gathered": "#8172b3",
    "whole": "#b0b0b0",
}
_WORDS: dict[How, str] = {
    "outputs": "outputs sharded",
    "inputs": "inputs sharded, then a sum",
    "rows": "rows sharded",
    "gathered": "outputs sharded, then gathered",
    "whole": "whole",
}
_MOST_LAYERS, _MOST_RANKS = 120, 32


def draw(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Draw how `hvd.parallelize` has divided a model, to a PNG; rank 0 writes it.

    A row for each layer with weights, a column for each rank of a replica. A box is the layer's
    kernel, inputs from top to bottom and outputs from left to right; what is filled is what the
    rank holds.

    Args:
        model: what `hvd.parallelize` returned.
        path: the file to write.

    Raises:
        ValueError: the model was not divided by `hvd.parallelize`.
        ImportError: matplotlib is not installed; the message names the command.

    Example:
        >>> model = hvd.parallelize(build_model())
        >>> hvd.parallel.draw(model, "model.png")
    """
    plan = plan_of(model)
    if topology.rank() == 0:
        _figure(plan).savefig(path, format="png", dpi=120)


def _figure(plan: ParallelPlan) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "matplotlib draws divided models, and is not installed. Run\n"
            "    pip install 'hvdkit[plot]'"
        ) from error
    layers = plan.placed[:_MOST_LAYERS]
    sizes = plan.degrees
    columns = min(sizes.pipeline * sizes.tensor, _MOST_RANKS)
    size = (3.5 + 0.9 * columns, 1.4 + 0.3 * len(layers))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for row, layer in enumerate(layers):
        for shard in range(sizes.tensor):
            if (column := layer.stage * sizes.tensor + shard) < columns:
                _draw_kernel(axes, row, column, layer, shard, sizes.tensor)
    labels = []
    for column in range(columns):
        ranks = plan.ranks_of(*divmod(column, sizes.tensor))
        more = ", ..." if len(ranks) > 4 else ""
        labels.append(f"rank {', '.join(map(str, ranks[:4]))}{more}")
    axes.set_xticks([column + 0.5 for column in range(columns)], labels, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks([row + 0.5 for row in range(len(layers))], [x.name for x in layers], fontsize=8)
    axes.set_xlim(0, columns)
    axes.set_ylim(max(len(layers), 1), 0)
    left = len(plan.placed) - len(layers)
    more = f", first {len(layers)} of {len(plan.placed)} layers" if left else ""
    axes.set_title(f"{plan.name}: {sizes}{more}", fontsize=10)
    _add_legend(figure, layers)
    return figure


def _draw_kernel(
    axes: Any, row: int, column: int, layer: PlacedLayer, shard: int, degree: int
) -> None:
    """A frame for the kernel, and in it what the rank holds."""
    from matplotlib.patches import Rectangle

    left, top, width, height = column + 0.1, row + 0.12, 0.8, 0.76
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#888888", lw=0.6))
    if layer.how in ("outputs", "gathered"):
        left, width = left + width * shard / degree, width / degree
    elif layer.how in ("inputs", "rows"):
        top, height = top + height * shard / degree, height / degree
    axes.add_patch(Rectangle((left, top), width, height, color=_COLORS[layer.how], lw=0))


def _add_legend(figure: Any, layers: list[PlacedLayer]) -> None:
    from matplotlib.patches import Patch

    used = {layer.how for layer in layers}
    handles = [Patch(color=_COLORS[how], label=_WORDS[how]) for how in _COLORS if how in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
