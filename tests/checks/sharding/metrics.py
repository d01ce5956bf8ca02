"""Metrics of one's own over uneven rows, and functions that make one number of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from checks.hearing import heard
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import global_batches, number_of_rows
from keras import metrics as M
from keras import ops

import hvdkit as hvd


def probabilities(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels that they tell something about."""
    rng = np.random.default_rng(3)
    p = rng.uniform(0.01, 0.99, (number_of_rows(1), columns)).astype("float32")
    return p, (rng.uniform(size=p.shape) < p).astype("float32")


def identity(columns: int) -> keras.Model:
    """A model whose predictions are its inputs."""
    return keras.Sequential([keras.Input((columns,)), keras.layers.Identity()])


def compare_with_one_process(
    p: np.ndarray, y: np.ndarray, metrics: Sequence[Any], loss: str
) -> list[str]:
    """Evaluate over ranks and in one process; returns what was said."""
    model = identity(p.shape[-1])
    model.compile(loss=loss, metrics=metrics)
    expected = model.evaluate(global_batches(p, y), return_dict=True, verbose=0)
    with heard() as texts:
        result = model.evaluate(hvd.shard((p, y), BATCH), return_dict=True, verbose=0)
    assert set(result) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    return texts


def _f1(y: Any, p: Any) -> Any:
    hits = ops.sum(y * ops.round(p))
    return 2 * hits / (ops.sum(y) + ops.sum(ops.round(p)) + 1e-7)


class _Largest(M.Metric):
    """Its state is no sum."""

    def __init__(self, name: str = "largest") -> None:
        super().__init__(name=name)
        self.value = self.add_variable((), "zeros")

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
        self.value.assign(ops.maximum(self.value, ops.max(p)))

    def result(self) -> Any:
        return self.value


class _F1OfTwo(M.Metric):
    """Its state is that of two metrics inside it."""

    def __init__(self) -> None:
        super().__init__(name="f1_of_two")
        self.precision, self.recall = M.Precision(), M.Recall()

    def update_state(self, y: Any, p: Any, sample_weight: Any = None) -> None:
        self.precision.update_state(y, p, sample_weight)
        self.recall.update_state(y, p, sample_weight)

    def result(self) -> Any:
        p, r = self.precision.result(), self.recall.result()
        return {"both": 2 * p * r / (p + r), "precise": p}


class _RootOfSquares(M.MeanSquaredError):
    """Only its result is another one."""

    def result(self) -> Any:
        return ops.sqrt(super().result())


@long
def check_metrics_of_a_model_that_nothing_was_built_of() -> None:
    """The rows of all batches count also on a rank that has none in the last one."""
    p, y = probabilities(1)
    model = identity(1)
    model.compile(loss="mse", metrics=[M.TruePositives(), M.FalsePositives(name="wrong")])
    result = model.evaluate(hvd.shard((p, y), BATCH), return_dict=True, verbose=0)
    right = p > 0.5
    assert result["true_positives"] == y[right].sum(), (result, y[right].sum())
    assert result["wrong"] == (1 - y[right]).sum()


@long
def check_metrics_that_only_their_result_makes_different_are_exact() -> None:
    assert not compare_with_one_process(
        *probabilities(1), [_F1OfTwo(), _RootOfSquares(name="root")], "mse"
    )


def _mean_of_all(y: Any, p: Any) -> Any:
    return ops.mean(ops.square(y - p))


@long
def check_what_is_computed_of_a_whole_batch_is_said() -> None:
    p, y = probabilities(3)
    model = identity(3)
    correlation = M.PearsonCorrelation(axis=0, name="down_the_rows")
    loss = keras.losses.MeanAbsoluteError(name="a_loss")
    metrics = [_f1, _mean_of_all, correlation, loss, _Largest(), "mse"]
    model.compile(loss="mse", metrics=metrics)
    expected = model.evaluate(global_batches(p, y), return_dict=True, verbose=0)
    with heard() as texts:
        results = [
            model.evaluate(hvd.shard((p, y), BATCH), return_dict=True, verbose=0) for _ in range(2)
        ]
    assert len({repr(result) for result in hvd.allgather_object(results[0])}) == 1
    assert repr(results[0]) == repr(results[1])
    inexact = ["_f1", "_mean_of_all", "down_the_rows", "largest"]
    for name in set(expected) - set(inexact) | {"_mean_of_all"}:
        np.testing.assert_allclose(results[0][name], expected[name], rtol=1e-5, err_msg=name)
    if hvd.size() == 1 or hvd.rank() > 0:
        assert not texts
        return
    assert len(texts) == len(inexact), texts
    assert all(sum(f"metric {name} " in text for text in texts) == 1 for name in inexact), texts
