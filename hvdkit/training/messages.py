"""What a user sees of a `fit`, `evaluate` or `predict`: one progress bar, and errors in words."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from hvdkit.engine import explained_in_graph, several_ranks, topology
from hvdkit.state.reachable import leading_optimizer
from hvdkit.training.features import Call, Feature


class OneProgressBar(Feature):
    """Progress bars (`verbose="auto"`) are drawn by rank 0 only."""

    def before(self, call: Call) -> None:
        """Turn them off on the other ranks."""
        if call.arguments["verbose"] == "auto" and several_ranks() and topology.rank() != 0:
            call.arguments["verbose"] = 0


class ExplainedErrors(Feature):
    """A step in which a collective fails says what has happened, and to which rank."""

    def around(self, call: Call) -> AbstractContextManager[None]:
        """Turn TensorFlow's errors into hvdkit's."""
        if not call.trains:
            return explained_in_graph(f"a step of {call.method}")
        return explained_in_graph("a training step of fit", lambda: _training_step(call.model))


def _training_step(model: Any) -> str:
    optimizer = leading_optimizer(model)
    if optimizer is None or not optimizer.built:
        return "fit"
    # A step counts itself when it starts: that waits for no gradient.
    return f"training step {max(1, int(optimizer.iterations.numpy()))} of fit"
