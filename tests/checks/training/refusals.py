"""What DistributedOptimizer refuses."""

from __future__ import annotations

import pytest
from keras import optimizers

import hvdkit as hvd


def check_optimizer_is_refused_when_it_can_not_work() -> None:
    for call, part in (
        (lambda: hvd.DistributedOptimizer(hvd.DistributedOptimizer("sgd")), "already"),
        (lambda: hvd.DistributedOptimizer(optimizers.SGD(), op=hvd.Max), "Average"),
        (lambda: hvd.DistributedOptimizer(optimizers.SGD(), backward_passes_per_step=0), "above 0"),
        (
            lambda: hvd.DistributedOptimizer(
                optimizers.SGD(gradient_accumulation_steps=3), backward_passes_per_step=2
            ),
            "contradicts",
        ),
        (
            lambda: hvd.DistributedOptimizer(
                optimizers.SGD(), op=hvd.Sum, gradient_predivide_factor=2.0
            ),
            "Average",
        ),
    ):
        with pytest.raises(ValueError, match=part):
            call()
