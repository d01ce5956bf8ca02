"""Masks are the same on all ranks, come back from checkpoints, and let nothing grow again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from checks.checkpoints.runs import shared_folder
from checks.compress.models import equal_on_all_ranks, kernels, multilayer, sentences, tagger
from checks.marks import long
from checks.reference import data

import hvdkit as hvd
from hvdkit.compress import Cubic, Pruning, Weights

_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = data(count, seed=seed)
    return x, np.concatenate([y, y[:, :1]], axis=1)


class Zeros(keras.callbacks.Callback):
    """Note after each step which elements of the kernels are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append([kernel == 0 for kernel in kernels(self.model)])


def _share(zeros: list[np.ndarray]) -> float:
    return float(sum(z.sum() for z in zeros) / sum(z.size for z in zeros))


@long
def check_what_is_pruned_stays_zero_and_is_alike() -> None:
    x, y = _rows(20, seed=hvd.rank())
    model = multilayer(hvd.rank())
    optimizer = keras.optimizers.AdamW(0.03, weight_decay=0.1, use_ema=True, ema_momentum=0.9)
    optimizer.ema_overwrite_frequency = 3
    model.compile(hvd.DistributedOptimizer(optimizer), "mse")
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[start])  # traced without masks
    pruning, zeros = Pruning(Cubic(0.75, begin=1, end=5, every=2)), Zeros()
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[pruning, zeros])
    shares = [round(_share(one), 2) for one in zeros.seen]
    assert shares[:2] == [0, 0], shares
    assert 0.5 < shares[2] == shares[3] < 0.75, shares
    assert set(shares[4:]) == {0.75}, shares
    for before, after in zip(zeros.seen, zeros.seen[1:], strict=False):
        assert all((b & ~a).sum() == 0 for b, a in zip(before, after, strict=True)), "grew again"
    assert round(pruning.sparsity, 2) == 0.75
    last = [kernel == 0 for kernel in kernels(model)]
    assert round(_share(last), 2) == 0.75, "after the averages of the end"
    equal_on_all_ranks(model.get_weights())
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), "mse")
    model.fit(x, y, batch_size=4, verbose=0)
    for kernel, zero in zip(kernels(model), last, strict=True):
        assert (kernel[zero] == 0).all(), "in a fit without the callback"


def check_ranks_with_other_weights_prune_the_same() -> None:
    """Between two meetings the weights differ, so that each would choose others."""
    x, y = _rows(32, seed=hvd.rank())
    model = multilayer(hvd.rank())
    exchange = hvd.exchange.LocalSGD(100)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.3), exchange=exchange), "mse")
    zeros = Zeros()
    pruning = Pruning(Cubic(0.5, end=4, every=2), Weights(["first", "second"]))
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[start, pruning, zeros])
    equal_on_all_ranks([z for step in zeros.seen for z in step])
    assert [round(z.mean(), 2) for z in zeros.seen[-1]] == [0.5, 0.5, 0.0]
    own = hvd.allgather_object(float(np.abs(kernels(model)[0]).sum()))
    assert len(set(own)) == 1, "the meeting at the end of the epoch"


@long
def check_pruning_goes_on_after_a_stop() -> None:
    x, y = _rows(40, seed=1)
    schedule = Cubic(0.6, end=8, every=2)

    def train(epochs: int, folder: Any) -> tuple[keras.Model, Pruning]:
        model, pruning = multilayer(3), Pruning(schedule)
        inner = keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(hvd.DistributedOptimizer(inner), "mse")
        backup = hvd.callbacks.BackupAndRestore(folder)
        rows = hvd.shard((x, y), batch_size=4)
        model.fit(rows, epochs=epochs, verbose=0, callbacks=[backup, pruning])
        return model, pruning

    never, _ = train(2, shared_folder())
    folder = shared_folder()
    train(1, folder)
    resumed, pruning = train(2, folder)
    assert round(pruning.sparsity, 2) == 0.6
    for mine, theirs in zip(resumed.get_weights(), never.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@long
def check_with_every_exchange_and_several_steps_at_once() -> None:
    exchange = hvd.exchange
    x, y = _rows(48, seed=hvd.rank())
    outer = keras.optimizers.SGD(0.7, momentum=0.9, nesterov=True)
    for one in (
        exchange.Sharded(stage=1),
        exchange.Sharded(stage=2),
        exchange.LocalSGD(2, outer=outer),
        *([exchange.Gossip()] if hvd.mpi_enabled() else []),
        exchange.Delayed(),
        exchange.AllReduce(aggregator=exchange.PowerSGD(1)),
        exchange.AllReduce(),
    ):
        model = multilayer(hvd.rank())
        adam = keras.optimizers.AdamW(0.02, weight_decay=0.1)
        model.compile(hvd.DistributedOptimizer(adam, exchange=one), "mse", steps_per_execution=2)
        pruning, zeros = Pruning(Cubic(0.5, end=6, every=2)), Zeros()
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[start, pruning, zeros])
        assert {round(_share(z), 2) for z in zeros.seen[4:]} == {0.5}, type(one).__name__
        equal_on_all_ranks(zeros.seen[-1])
        assert round(_share([k == 0 for k in kernels(model)]), 2) == 0.5, type(one).__name__


@long
def check_in_mixed_precision_with_accumulated_gradients() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = tagger(0)
    keras.config.set_dtype_policy("float32")
    inner = keras.optimizers.AdamW(0.01, clipnorm=1.0, weight_decay=0.1)
    optimizer = hvd.DistributedOptimizer(inner, backward_passes_per_step=2)
    model.compile(optimizer, _LOGITS)
    x, y, weights = sentences(32)
    pruning = Pruning(Cubic(0.5, end=4, every=2))
    model.fit(hvd.shard((x, y, weights), 4), epochs=2, verbose=0, callbacks=[pruning])
    assert round(_share([k == 0 for k in kernels(model)]), 2) == 0.5
    equal_on_all_ranks(model.get_weights())
