"""Moving statistics, averaged over ranks before they are used or saved."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from hvdkit.agreement.digest import digests_of
from hvdkit.agreement.variables import moving_statistics, process_set_of
from hvdkit.engine import Average, is_initialized, ops, topology


def average_statistics(model: Any) -> None:
    """Average the moving statistics of a model over the ranks that its optimizer reduces over.

    Only those that differ are touched, since the average of equal floats may round. Does nothing
    where the optimizer is not distributed.

    Args:
        model: the model; all ranks of the optimizer's process set call this.

    Raises:
        RankMismatchError: on every rank, when the ranks have different models.
    """
    if not is_initialized() or topology.size() == 1:
        return
    process_set = process_set_of(model.optimizer)
    if process_set is None or not topology.in_process_set(process_set):
        return
    variables = moving_statistics(model)
    digests = digests_of(model, "statistics", variables, process_set)
    differing = [variables[i] for i in digests.differing()]
    if not differing:
        return
    averages = ops.grouped_allreduce(
        [tf.convert_to_tensor(variable.value) for variable in differing],
        Average,
        name="hvdkit_statistics",
        process_set=process_set,
    )
    for variable, average in zip(differing, averages, strict=True):
        variable.assign(average)
