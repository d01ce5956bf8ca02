"""Moving statistics, averaged over ranks before they are used or saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from hvdkit.engine import Average, is_initialized, logger, ops, topology
from hvdkit.engine.local_replicas import average_over_replicas
from hvdkit.mesh.variable import raw
from hvdkit.state.constants import renew_layers_of
from hvdkit.state.digest import digests_of
from hvdkit.state.groups import ranks_of_optimizer
from hvdkit.state.inventory import averaged, inventory
from hvdkit.state.outside_variables import remake_functions
from hvdkit.state.own import ATTRIBUTE, doubtful
from hvdkit.state.reachable import leading_optimizer

_NAMED = 5


def average_statistics(model: Any) -> None:
    """Average the moving statistics of a model over the ranks that its optimizer reduces over.

    And over the local devices of each (`MirroredStrategy`), of which each has updated its own. Only
    those that differ are touched, since the average of equal floats may round. Does nothing where
    no optimizer of the model is distributed.

    Args:
        model: the model; all ranks of the optimizer's process set call this.

    Raises:
        RankMismatchError: on every rank, when the ranks have different models.
    """
    if not is_initialized() or topology.size() == 1:
        return
    process_set = ranks_of_optimizer(leading_optimizer(model))
    if process_set is None or not topology.in_process_set(process_set):
        return
    variables = [row.variable for row in averaged(inventory(model))]
    for variable in variables:
        average_over_replicas(raw(variable))
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
    if renew_layers_of(differing):
        remake_functions(model)
    _say_once(model, doubtful(model, differing))


def _say_once(model: Any, names: Sequence[str]) -> None:
    said: set[str] = vars(model).setdefault("_hvdkit_said_averaged", set())
    new = [name for name in names if name not in said]
    said.update(new)
    if not new or topology.rank() != 0:
        return
    more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
    logger.warning(
        "hvdkit: averaged over the ranks at the end of an epoch, since layers update them by "
        "themselves: %s%s. If an average means nothing (a queue of features, a rank's own "
        'centers), give the layer\'s class the attribute %s = "own", and each rank keeps its own '
        'values; %s = "average" says that it is right.',
        ", ".join(new[:_NAMED]),
        more,
        ATTRIBUTE,
        ATTRIBUTE,
    )
