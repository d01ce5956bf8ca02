"""What `fit` does about steps that are not finite."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from checks.agreement.at_start import START
from checks.agreement.during_training import logged
from checks.marks import long
from checks.reference import data, mlp, same_on_all_ranks

import hvdkit as hvd


def _fit(policy: Any, *callbacks: Any, bad: tuple[int, ...] = (2,), **compiling: Any) -> Any:
    """Three epochs of four steps; in the first, the last rank has NaN in the steps `bad`."""
    x, y = data(48, seed=hvd.rank())
    if hvd.rank() == hvd.size() - 1:
        for step in bad:
            x[4 * step, 0] = np.nan
    model = mlp(hvd.rank())
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1), nonfinite=policy)
    model.compile(optimizer=optimizer, loss="mse", **compiling)
    history = model.fit(
        x,
        y,
        batch_size=4,
        steps_per_epoch=4,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[START(0), *callbacks],
    )
    return model, history.history


@long
def check_skip_counts_and_reports() -> None:
    for mode in ({"steps_per_execution": 2}, {"run_eagerly": True}, {"jit_compile": True}):
        found: list[Any] = []
        lines = logged(
            lambda mode=mode, found=found: found.extend(
                _fit(hvd.nonfinite.Skip(), bad=(0, 2), **mode)
            )
        )
        model, history = found
        assert history["nonfinite_steps"] == [2, 0, 0], history
        assert int(model.optimizer.iterations) == 10
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
        same_on_all_ranks(model)
        reports = [
            line for line in lines if "left out of epoch 1" in line and ": 2 (2 so far)" in line
        ]
        assert len(reports) == (hvd.rank() == 0), lines


@long
def check_skip_has_a_limit() -> None:
    _fit(hvd.nonfinite.Skip(limit=1), bad=(0, 2))
    with pytest.raises(hvd.NonfiniteGradientError, match="in 2 steps in a row"):
        _fit(hvd.nonfinite.Skip(limit=1), bad=(1, 2))


@long
def check_stop_keeps_the_weights_before_the_step() -> None:
    seen: list[keras.Model] = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            seen[:] = [self.model]

    with pytest.raises(hvd.NonfiniteGradientError, match=r"kernel.*held NaN or Inf"):
        _fit(hvd.nonfinite.Stop(), Keep())
    assert int(seen[0].optimizer.iterations) == 2
    assert all(np.isfinite(weight).all() for weight in seen[0].get_weights())
    same_on_all_ranks(seen[0])


class _Checkpoint(keras.callbacks.Callback):
    """Keeps the weights of the first step, and goes back to them."""

    def __init__(self) -> None:
        super().__init__()
        self.restored: list[int] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not self.restored and batch == 0:
            self.weights = self.model.get_weights()

    def restore(self) -> None:
        self.restored.append(int(self.model.optimizer.iterations))
        self.model.set_weights(self.weights)


@long
def check_restore_goes_back_on_all_ranks() -> None:
    checkpoint = _Checkpoint()
    model, _ = _fit(hvd.nonfinite.Restore(), checkpoint)
    assert hvd.allgather_object(checkpoint.restored) == [[2]] * hvd.size()
    same_on_all_ranks(model)
    calls: list[int] = []
    policy = hvd.nonfinite.Restore(lambda: calls.append(1), limit=1)
    with pytest.raises(hvd.NonfiniteGradientError, match="after going back"):
        _fit(policy, bad=(1, 2))
    assert calls == [1]


def check_restore_needs_something_to_go_back_with() -> None:
    with pytest.raises(ValueError, match=r"a method restore\(\)"):
        _fit(hvd.nonfinite.Restore())


def check_policies_in_a_loop_of_ones_own() -> None:
    variable = keras.Variable([1.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), nonfinite=hvd.nonfinite.Stop())
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones([1])], [variable])
    optimizer.react_to_nonfinite()
    optimizer.apply([keras.ops.ones([1]) * (np.nan if hvd.rank() == 0 else 1.0)], [variable])
    with pytest.raises(hvd.NonfiniteGradientError):
        optimizer.react_to_nonfinite()
    optimizer.react_to_nonfinite()  # said once
