"""What leaders do with the sums of their groups, and what is left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.compression.methods import (
    METHODS,
    gradients_of,
    kept,
    optimizer_with,
    variables_of,
)
from checks.hierarchical.levels import (
    all_groups,
    forgetting_process_sets,
    is_leader,
    own_group,
    some_groups,
)
from checks.marks import long

import hvdkit as hvd
from hvdkit.exchange import AllReduce, ErrorFeedback, Hierarchical, Int8, OneBit
from hvdkit.optimizers.composition import tracked_of

SHAPES = ((6, 5), (3, 2, 4), (3,))


def _stepping(optimizer: Any, *, graph: bool) -> Callable[..., None]:
    def step(*gradients: tf.Tensor) -> None:
        optimizer.apply([*gradients])

    return tf.function(step) if graph else step


def _require_as_one_rank_a_group(name: str, groups: list[list[int]], *, graph: bool) -> None:
    """The leaders do what ranks do that have the sums of the groups."""
    variables = variables_of(SHAPES)
    between = METHODS[name]()
    optimizer = optimizer_with(Hierarchical(between, groups=groups), variables)
    step = _stepping(optimizer, graph=graph)
    leaders = hvd.add_process_set([group[0] for group in groups]) if not _known(groups) else None
    references = variables_of(SHAPES)
    reference = None
    if is_leader(groups):
        exchange = AllReduce(METHODS[name](), process_set=leaders or _set_of(groups))
        reference = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), exchange=exchange)
        reference.build(references)
        reference_step = _stepping(reference, graph=graph)
    for number in range(4):
        step(*map(tf.constant, gradients_of(number, hvd.rank(), SHAPES)))
        if reference is not None:
            everyone = [gradients_of(number, rank, SHAPES) for rank in own_group(groups)]
            sums = [np.sum(of_ranks, axis=0) for of_ranks in zip(*everyone, strict=True)]
            reference_step(*map(tf.constant, sums))
    everyone = hvd.allgather_object([v.numpy() for v in variables])
    for mine, first in zip(variables, everyone[0], strict=True):
        np.testing.assert_array_equal(mine.numpy(), first)
    if reference is not None:
        scale = len(groups) / hvd.size()
        for mine, other in zip(variables, references, strict=True):
            assert np.abs(other.numpy()).max() > 0.1
            np.testing.assert_allclose(
                mine.numpy(), scale * other.numpy(), rtol=1e-4, atol=1e-5, err_msg=name
            )
        for mine, other in zip(kept(optimizer), kept(reference), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4, err_msg=name)
    _require_alike_or_leaders(optimizer, groups)


def _known(groups: list[list[int]]) -> bool:
    return _number_of(groups) is not None


def _number_of(groups: list[list[int]]) -> int | None:
    from hvdkit.engine.native import registered_process_sets

    leaders = [group[0] for group in groups]
    found = registered_process_sets()
    return next((n for n, ranks in found.items() if sorted(ranks) == leaders), None)


def _set_of(groups: list[list[int]]) -> hvd.ProcessSet:
    made = hvd.ProcessSet([group[0] for group in groups])
    made.process_set_id = _number_of(groups)
    return made


def _require_alike_or_leaders(optimizer: Any, groups: list[list[int]]) -> None:
    """What leaders have in common all ranks have; residuals leaders have alone."""
    for row in tracked_of(optimizer):
        value = np.array(row.variable)
        if row.same_on is not None:
            for other in hvd.allgather_object(value):
                np.testing.assert_array_equal(value, other, err_msg=row.path)
        elif not is_leader(groups):
            np.testing.assert_array_equal(value, 0.0, err_msg=row.path)


def check_leaders_do_what_ranks_do_that_have_the_sums() -> None:
    with forgetting_process_sets():
        _require_as_one_rank_a_group("late power", all_groups()[0], graph=False)


@long
def check_leaders_do_so_with_each_method() -> None:
    for name in METHODS:
        with forgetting_process_sets():
            _require_as_one_rank_a_group(name, all_groups()[1], graph=False)


@long
def check_leaders_do_so_in_graphs() -> None:
    for name in METHODS:
        with forgetting_process_sets():
            _require_as_one_rank_a_group(name, all_groups()[-1], graph=True)


def _require_nothing_lost(aggregator: Any, groups: list[list[int]], *, graph: bool) -> None:
    variables = variables_of(SHAPES)
    optimizer = optimizer_with(aggregator, variables)
    step = _stepping(optimizer, graph=graph)
    for number in range(3):
        before = [v.numpy() for v in variables]
        old = kept(optimizer, "residual")
        gradients = gradients_of(number, hvd.rank(), SHAPES)
        step(*map(tf.constant, gradients))
        output = [b - v.numpy() for b, v in zip(before, variables, strict=True)]
        left = kept(optimizer, "residual")
        for out, g, o, new in zip(output, gradients, old, left, strict=True):
            given, still = hvd.allreduce(g + o), hvd.allreduce(out + new)
            np.testing.assert_allclose(still, given, rtol=1e-4, atol=1e-5)
    assert (np.abs(left[0]).max() > 1e-3) == is_leader(groups)  # some methods begin late


@long
def check_nothing_is_lost_inside_or_around() -> None:
    """The sum over ranks of gradients and residuals is that of outputs and new residuals."""
    groups = all_groups()[1]
    for aggregator in (
        Hierarchical(ErrorFeedback(OneBit()), groups=groups),
        ErrorFeedback(Hierarchical(OneBit(), groups=groups)),
    ):
        with forgetting_process_sets():
            _require_nothing_lost(aggregator, groups, graph=False)


@long
def check_nothing_is_lost_in_graphs_by_each_method() -> None:
    groups = all_groups()[-1]
    aggregators = [
        Hierarchical(make(), groups=groups)
        for name, make in METHODS.items()
        if name != "momentum" and "float16" not in name  # velocities; coarse sums
    ]
    around = [OneBit(), Int8(block=7), Int8(block=7, rounding="nearest")]
    aggregators += [ErrorFeedback(Hierarchical(one, groups=groups)) for one in around]
    for aggregator in aggregators:
        with forgetting_process_sets():
            _require_nothing_lost(aggregator, groups, graph=True)


def _require_left_out(place: int, *, graph: bool) -> None:
    variables = variables_of(SHAPES)
    optimizer = optimizer_with(
        Hierarchical(METHODS["late power"](), groups=some_groups()),
        variables,
        nonfinite=hvd.nonfinite.Skip(),
    )
    step = _stepping(optimizer, graph=graph)
    for number in range(3):
        step(*map(tf.constant, gradients_of(number, hvd.rank(), SHAPES)))
    before = kept(optimizer) + [v.numpy() for v in variables]
    bad = gradients_of(9, hvd.rank(), SHAPES)
    bad[0][1] = np.nan if hvd.rank() == place else 1.0
    step(*map(tf.constant, bad))
    assert optimizer.nonfinite_steps == 1
    after = kept(optimizer) + [v.numpy() for v in variables]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def check_a_step_that_is_left_out_leaves_alone_what_is_kept() -> None:
    with forgetting_process_sets():
        _require_left_out(hvd.size() - 1, graph=False)


@long
def check_a_step_that_is_left_out_in_a_graph() -> None:
    for place in (0, hvd.size() - 1):
        with forgetting_process_sets():
            _require_left_out(place, graph=True)


def check_residuals_of_other_ranks_come_to_the_leader() -> None:
    """As after a checkpoint of other ranks, or hosts: what was not sent is sent."""
    with forgetting_process_sets():
        for groups in all_groups()[1:2]:
            variables = variables_of(SHAPES)
            optimizer = optimizer_with(
                Hierarchical(ErrorFeedback(hvd.Compression.none), groups=groups), variables
            )
            owed = gradients_of(5, hvd.rank(), SHAPES)
            for row, value in zip(tracked_of(optimizer), owed, strict=True):
                row.variable.assign(value)
            _stepping(optimizer, graph=False)(*[tf.zeros(shape) for shape in SHAPES])
            for variable, value in zip(variables, owed, strict=True):
                mean = np.mean(hvd.allgather_object(value), axis=0)
                np.testing.assert_allclose(-variable.numpy(), mean, rtol=1e-4, atol=1e-5)
            assert all(not array.any() for array in kept(optimizer))
