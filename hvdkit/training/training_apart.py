"""An `evaluate` whose rows do not count in the figures of a training."""

from __future__ import annotations

from contextlib import AbstractContextManager

from hvdkit.metrics.windows import training_apart
from hvdkit.training.features import Call, Feature


class TrainingApart(Feature):
    """What an evaluation does to the metrics of its model is no training's."""

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Keep it apart, for a validation and for a callback that evaluates."""
        return training_apart(call.model)
