"""Layered synchronisation: variables that meet more often than others."""

from __future__ import annotations

from checks.marks import long
from checks.rounds.steps import COMPILE, close, run, together
from keras import optimizers

import hvdkit as hvd
from hvdkit.exchange import LocalSGD


def _run(every: object, compile_step: object) -> list:
    exchange = LocalSGD(every)
    optimizer = hvd.DistributedOptimizer(optimizers.SGD(0.1, momentum=0.9), exchange=exchange)
    return run(optimizer, 6, compile_step)


@long
def check_each_group_meets_in_its_own_time() -> None:
    for compile_step in COMPILE:
        values = _run({"weight0": 3, ".*": 2}, compile_step)
        met = [[together([value]) for value in weights] for weights in values]
        if hvd.size() > 1:
            assert [one for one, _ in met] == [False, False, True] * 2, met
            assert [two for _, two in met] == [False, True] * 3, met
        thirds, halves = _run(3, compile_step), _run(2, compile_step)
        for both, one, two in zip(values, thirds, halves, strict=True):
            close(both, [one[0], two[1]])
