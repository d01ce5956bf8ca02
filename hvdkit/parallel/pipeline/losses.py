"""The loss of a batch, from those of its micro-batches.

Keras averages a loss over rows, so that of the batch is the sum of the micro-batches' losses, each
times its fraction of the rows. Losses that are normalised otherwise count in other fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from hvdkit.engine import raise_everywhere
from hvdkit.parallel.pipeline.batch import PipelineBatch

Share = Callable[[PipelineBatch, int], float]

_MEANS = ("sum_over_batch_size", "mean")


class LossHead:
    """The loss of a micro-batch, from the model's outputs.

    Args:
        loss: Keras's `CompileLoss`.
        packed: puts flat outputs into the structure of the model's.
    """

    def __init__(self, loss: Any, packed: Callable[[list[Any]], Any]) -> None:
        self._loss = loss
        self._packed = packed

    def __call__(self, outputs: list[Any], targets: Any, sample_weight: Any) -> tf.Tensor:
        """The loss, a scalar, as Keras gives it for these rows."""
        return self._loss(targets, self._packed(outputs), sample_weight)

    @property
    def variables(self) -> list[Any]:
        """What it counts the losses of single outputs in."""
        return list(self._loss.variables)


def share_on_all(loss: Any, name: str, *, masked: bool) -> Share:
    """What the loss of a micro-batch counts in that of the batch; all ranks call it.

    Args:
        loss: the loss or losses, as given to `compile`.
        name: the model's.
        masked: whether a mask reaches its outputs.

    Raises:
        ValueError: on every rank: the loss of the batch is no sum of those of the micro-batches.
    """
    problem = None
    share: Share = PipelineBatch.fraction
    try:
        share = share_of(loss)
    except ValueError as error:
        problem = str(error)
    if loss is not None and masked:
        problem = (
            f"a mask reaches the outputs of model {name!r}, so Keras averages the loss over the "
            "rows and steps that are left, whose number differs between micro-batches. Stop the "
            "mask before the outputs, and give sample_weight instead."
        )
    raise_everywhere(problem, ValueError)
    return share


def share_of(loss: Any) -> Share:
    """What the loss of a micro-batch counts in that of the batch.

    Args:
        loss: the loss or losses, as given to `compile`.

    Returns:
        A function of the batch and the number of one of its micro-batches.

    Raises:
        ValueError: the loss of the batch is no sum of those of the micro-batches; it names the
            loss.
    """
    losses = [one for one in keras.tree.flatten(loss) if one is not None]
    for one in losses:
        if getattr(one, "ignore_class", None) is not None:
            raise ValueError(
                f"the loss {one.name!r} has ignore_class={one.ignore_class}: it is an average over "
                "the rows that are left, whose number differs between micro-batches. Give those "
                "rows a sample_weight of 0 instead."
            )
    shares = {_share(one) for one in losses}
    if len(shares) > 1:
        raise ValueError(
            "the losses of the outputs have different reductions, so their sum can't be divided "
            "into micro-batches. Give all of them the same."
        )
    if shares == {PipelineBatch.weight_fraction} and len(losses) > 1:
        raise ValueError(
            'the reduction "mean_with_sample_weight" goes with one output in a pipeline, not with '
            f'{len(losses)}. Use "sum_over_batch_size".'
        )
    return shares.pop() if shares else PipelineBatch.fraction


def _share(loss: Any) -> Share:
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if reduction in _MEANS:
        return PipelineBatch.fraction
    if reduction == "sum":
        return _all
    if reduction == "mean_with_sample_weight":
        return PipelineBatch.weight_fraction
    raise ValueError(
        f"the loss {getattr(loss, 'name', loss)!r} has reduction={reduction!r}: a pipeline needs "
        'one number a micro-batch. Use "sum_over_batch_size".'
    )


def _all(batch: PipelineBatch, micro_batch: int) -> float:
    return 1.0
