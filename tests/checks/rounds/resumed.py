"""Trainings that are stopped between two meetings go on, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from checks.checkpoints.runs import build, require_same_end, shared_folder, train
from checks.marks import long
from checks.rounds.steps import mean_over_ranks
from keras import optimizers

import hvdkit as hvd
from hvdkit.checkpoint.arrays import Contents
from hvdkit.checkpoint.reshard import reshard
from hvdkit.checkpoint.variables import copies, groups_of, paths
from hvdkit.exchange import Delayed, LocalSGD
from hvdkit.optimizers.composition import tracked_of
from hvdkit.state.reachable import optimizers_of


def _require_resumed(make: Callable[[], Any]) -> None:
    def model() -> Any:
        return build(distributed={"exchange": make()}, optimizer=optimizers.Adam(0.01))

    never, folder = train(shared_folder(), model=model()), shared_folder()
    assert train(folder, stop=4, model=model(), save_freq=1) is None
    end = train(folder, model=model(), save_freq=1)
    assert never is not None
    assert end is not None
    require_same_end(never, end)
    for one, other in zip(
        tracked_of(end.model.optimizer), tracked_of(never.model.optimizer), strict=True
    ):
        np.testing.assert_array_equal(np.array(one.variable), np.array(other.variable))


@long
def check_local_steps_between_two_meetings() -> None:
    outer = {"momentum": 0.9, "nesterov": True}
    _require_resumed(
        lambda: LocalSGD({"kernel": 3, ".*": 2}, start=1, outer=optimizers.SGD(0.7, **outer))
    )


@long
def check_a_gradient_that_is_pending() -> None:
    _require_resumed(lambda: Delayed())


@long
def check_another_number_of_ranks_starts_from_the_mean() -> None:
    """As if one rank more went on: weights, slots and pending gradients are means of all."""
    for make in (lambda: LocalSGD(100), lambda: Delayed()):
        model = build(distributed={"exchange": make()}, optimizer=optimizers.Adam(0.01))
        rng = np.random.default_rng(hvd.rank())
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        for _ in range(2):
            optimizer.apply(
                [rng.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
            )
        _, own = groups_of(model, optimizers_of(model))
        arrays = copies(own)
        files = hvd.allgather_object(arrays)
        again = reshard(0, hvd.size(), lambda rank, f=files: Contents(f[rank], {"paths": {}}))
        kinds = [g for g in paths(own) if g in ("differing", "differing_slots", "residuals")]
        assert kinds, paths(own).keys()
        for group in kinds:
            names = [name for name in arrays if name.startswith(f"{group}/")]
            expected = mean_over_ranks([arrays[name] for name in names])
            for name, mean in zip(names, expected, strict=True):
                np.testing.assert_allclose(again.arrays[name], mean, rtol=1e-6, atol=1e-7)
