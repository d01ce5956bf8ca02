"""`split`: an existing model, its layers split over the devices of this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.python.client import device_lib

from hvdkit.engine import broadcast_object, is_initialized, topology
from hvdkit.graph.balance import balance, size_text
from hvdkit.graph.flattening import flattened
from hvdkit.graph.layer_sequence import LayerSequence, Part, variables_of
from hvdkit.graph.rebuild import part_model
from hvdkit.parallel.devices.copies import copied
from hvdkit.parallel.devices.given import give_away, require_no_own_methods, split_like
from hvdkit.parallel.devices.layer_split import LayerSplit
from hvdkit.parallel.devices.local_devices import existing_devices, refuse_strategy, short_name
from hvdkit.parallel.devices.plan import PlannedPart, SplitPlan
from hvdkit.planner.layer_costs import estimated_times, measured_times, memory

_TIMES = {"measure": measured_times, "flops": estimated_times}


def split(
    model: keras.Model,
    devices: Sequence[str] | None = None,
    *,
    micro_batches: int = 1,
    after: Sequence[str] | None = None,
    copy: bool = False,
    batch_size: int = 32,
    times: str = "measure",
    capacities: Sequence[float | None] | None = None,
    slots: int = 2,
    verbose: bool = True,
    plot: str | Path | None = None,
) -> keras.Model:
    """Split the layers of a model over devices: consecutive layers that take about equally long.

    The new model uses the layers of the one that was given, whose weights move to their devices: a
    step of one changes the other. It is not compiled; compile it as you would the other: it has the
    same inputs and outputs, and trains in the same way. A class of your own is kept, with its
    `train_step`, `compute_loss` and the like, and with the attributes of the model that was given.
    In a job of several ranks every rank calls it, with devices of its own; rank 0's times decide.

    The model that was given can still be used, and trained where its weights have no regularizers,
    which the new model computes on their devices. A `tf.function` of your own that was traced
    before it was split has the weights of then.

    Layers that share weights stay together, but for one or two weights, such as tied embeddings:
    these lie on the first of their devices, the other layers read them there, and the gradients are
    summed.

    Args:
        model: a built functional or Sequential model. The layers of nested models count as its own.
        devices: names such as "GPU:0", a part for each; None for all of this process's GPUs, or
            logical CPU devices if it has none.
        micro_batches: see `hvd.parallel.LayerSplit`, which also says what then differs.
        after: names of the layers after which to cut, one fewer than there are devices
            ("encoder/dense" for a layer of a nested model whose name others have too). None for
            the cuts for which the slowest part is fastest.
        copy: make copies of the layers, with their weights and all else that they know, and leave
            the model that was given as it is. Layers have to be able to be made again from their
            `get_config`.
        batch_size: rows of a batch, for times and memory.
        times: "measure" runs each layer on the first device; "flops" counts operations.
        capacities: for each device the bytes that the model may use there, None for no limit. By
            default what TensorFlow has there for GPUs, and no limit for CPUs.
        slots: the optimizer's variables for each weight: 2 for Adam, 1 for momentum.
        verbose: whether to print the plan as a table (rank 0 does).
        plot: a file for rank 0 to draw the plan in, such as "plan.png"; needs
            `pip install 'hvdkit[plot]'`.

    Returns:
        A functional model of one `LayerSplit`, not compiled. One of a class of your own, or with
        weights that parts share, is saved as the unsplit model that it was made from.

    Raises:
        ValueError: the model can't be cut, or copied; a device does not exist; a layer does not fit
            on its device; there are more devices than points to cut at; the scope of a
            `tf.distribute` strategy.
        ImportError: `plot` without matplotlib.

    Example:
        >>> model = hvd.parallel.split(model, ["GPU:0", "GPU:1"], micro_batches=4)
        >>> model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam()), loss="mse")
    """
    refuse_strategy("hvd.parallel.split")
    own = existing_devices(devices)
    if times not in _TIMES:
        raise ValueError(f"times={times!r}: choose one of {', '.join(map(repr, _TIMES))}.")
    require_no_own_methods(model)
    if copy:
        with tf.device("CPU:0"):
            model = copied(model)
    sequence = flattened(model)
    asked = [] if after is None else sorted({sequence.point_after(name) for name in after})
    blocks = sequence.blocks(asked)
    costs = _of_rank_0(_TIMES[times](sequence, blocks, batch_size, own))
    sizes = memory(sequence, blocks, batch_size, slots)
    if after is None:
        own = own if devices is not None else own[: len(blocks)]
        names = [repr(sequence.steps[start].operation.name) for start, _ in blocks]
        limits = _limits(capacities, own)
        ranges = balance(costs, sizes, len(own), limits, names=names, devices=own)
    else:
        ranges = _ranges_after(blocks, asked)
        own = _for_parts(own, len(ranges))
        _require_fit(ranges, sizes, _limits(capacities, own), own)
    parts = sequence.cut(blocks[start][0] for start, _ in ranges[1:])
    plan = _plan(sequence, parts, ranges, costs, sizes, own)
    if not (is_initialized() and topology.rank() > 0):
        if verbose:
            plan.print()
        if plot is not None:
            plan.draw(plot)
    models = [part_model(part, f"{sequence.name}_part{i}") for i, part in enumerate(parts)]
    layer = LayerSplit(models, own, micro_batches, name=f"{sequence.name}_split")
    split_model = split_like(model, sequence, layer)
    if not copy:
        give_away(model, split_model, layer)
    return split_model


def _of_rank_0(times: list[float]) -> list[float]:
    """Rank 0's times on every rank, so that all cut at the same points."""
    if not is_initialized() or topology.size() == 1:
        return times
    agreed: list[float] = broadcast_object(times, root_rank=0)
    return agreed


def _ranges_after(
    blocks: Sequence[tuple[int, int]], points: Sequence[int]
) -> list[tuple[int, int]]:
    """The blocks of each part, for the points that a user asks for."""
    first = [0, *(next(i for i, b in enumerate(blocks) if b[0] == p) for p in points)]
    return list(pairwise([*first, len(blocks)]))


def _for_parts(devices: list[str], parts: int) -> list[str]:
    if parts > len(devices):
        raise ValueError(
            f"{parts} parts, but {len(devices)} devices: {', '.join(devices)}. Name a device for "
            "each part (one may be named several times), or cut after fewer layers."
        )
    return devices[:parts]


def _require_fit(
    ranges: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    limits: Sequence[float | None],
    devices: Sequence[str],
) -> None:
    for number, ((start, stop), limit, device) in enumerate(
        zip(ranges, limits, devices, strict=True)
    ):
        held = sum(sizes[start:stop])
        if limit is not None and held > limit:
            raise ValueError(
                f"part {number} does not fit on {device}: it needs {size_text(held)}, and there "
                f"are {size_text(limit)}. Cut after an earlier layer, or leave `after` out."
            )


def _limits(
    capacities: Sequence[float | None] | None, devices: Sequence[str]
) -> list[float | None]:
    if capacities is None:
        return _memory_of_gpus(devices)
    if len(capacities) != len(devices):
        raise ValueError(
            f"{len(capacities)} capacities for {len(devices)} devices: give one for each, in "
            "bytes, or None for no limit."
        )
    return list(capacities)


def _memory_of_gpus(devices: Sequence[str]) -> list[float | None]:
    """What TensorFlow may use of each GPU, shared by the parts on it; None for CPUs."""
    if not any(device.startswith("GPU:") for device in devices):
        return [None] * len(devices)
    limits = {short_name(d.name): float(d.memory_limit) for d in device_lib.list_local_devices()}
    return [
        limits[device] / devices.count(device) if device.startswith("GPU:") else None
        for device in devices
    ]


def _plan(
    sequence: LayerSequence,
    parts: Sequence[Part],
    ranges: Sequence[tuple[int, int]],
    costs: Sequence[float],
    sizes: Sequence[float],
    devices: Sequence[str],
) -> SplitPlan:
    planned = []
    for part, (start, stop), device in zip(parts, ranges, devices, strict=True):
        names = [layer.name for layer in part.layers]
        parameters = sum(math.prod(v.shape) for v in variables_of(part.steps))
        planned.append(
            PlannedPart(device, names, parameters, sum(sizes[start:stop]), sum(costs[start:stop]))
        )
    return SplitPlan(sequence.name, planned)
