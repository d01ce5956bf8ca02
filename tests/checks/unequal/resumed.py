"""A training that is stopped in an epoch goes on with other shares, or other numbers of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from checks.checkpoints.runs import StopAt, Stopped
from checks.marks import long
from checks.meshes.folders import shared_folder
from checks.reference import BATCH
from checks.sharding.reference import classifier, compiled, labelled_rows
from checks.unequal.kinds import KINDS, VERY_UNEQUAL, global_batch, weights

import hvdkit as hvd
from hvdkit.data.batch import ShardedBatch, data_of
from hvdkit.data.shares import EQUAL, FixedShares, Shares
from hvdkit.data.source import Sharding, Source


def _train(folder: Path, data: Any, stop: int | None = None) -> keras.Model:
    model = compiled(classifier(50 + hvd.rank()), hvd.DistributedOptimizer("adam"))
    backup = hvd.callbacks.BackupAndRestore(folder, save_freq=1)
    broadcast = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    callbacks = [backup, broadcast, *([StopAt(stop)] if stop else [])]
    try:
        model.fit(data, epochs=2, verbose=0, callbacks=callbacks)
    except Stopped:
        backup._saver._pool.shutdown()  # a process that ends takes its threads along
        hvd.barrier()
    return model


@long
def check_with_other_weights() -> None:
    x, y = labelled_rows(4 * global_batch() + 1)

    def data(given: Any) -> Any:
        return hvd.shard((x, y), BATCH, seed=3, weights=given)

    with shared_folder() as never, shared_folder() as folder:
        expected = _train(never, data(None))
        _train(folder, data(weights()), stop=4)
        _train(folder, data(weights(VERY_UNEQUAL)), stop=4)
        model = _train(folder, data("measured"))
        for mine, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def check_position_of_a_loop() -> None:
    x, y = labelled_rows(4 * global_batch() + 3)
    ids = np.arange(len(x))
    first = hvd.shard((ids, y), BATCH, seed=3, weights=weights())
    seen, position = [], {}
    for number, (own, _, scale) in enumerate(first, start=1):
        seen += own.numpy()[scale.numpy() > 0].tolist()
        position = first.position(number)
        if number == 2:
            break
    rest = hvd.shard((ids, y), BATCH, seed=3, weights=weights(VERY_UNEQUAL))
    rest.start_at(position)
    for own, _, scale in rest:
        seen += own.numpy()[scale.numpy() > 0].tolist()
    everyone = [number for own in hvd.allgather_object(seen) for number in own]
    assert sorted(everyone) == ids.tolist()


def _read(source: Source, size: int, shares: Shares, first: int, stop: int | None) -> list[int]:
    """What all ranks read of an epoch, in so many batches of each."""

    def of_rank(rank: int) -> Iterator[int]:
        sharding = Sharding(rank, size, BATCH, drop_remainder=False, shares=shares)
        batches = source.dataset(sharding, lambda: 0, in_order=False, first=first)
        for batch in batches.take(-1 if stop is None else stop):
            if not isinstance(batch, ShardedBatch) or batch.scale > 0:
                yield from np.asarray(data_of(batch)[1]).tolist()

    return [number for rank in range(size) for number in of_rank(rank)]


@long
def check_with_other_numbers_of_ranks() -> None:
    """Places count rows over all ranks, so they mean the same to any shares of any ranks."""
    x = np.zeros((60, 1), "float32")
    ways = [(3, FixedShares((5.0, 3.0, 1.0))), (2, FixedShares((1.0, 9.0))), (2, EQUAL)]
    names = ("arrays", "samples", "batches", "mapped rows")
    sources = {name: KINDS[name](x, np.arange(60)).source for name in names}
    for name in names[hvd.rank() :: hvd.size()]:  # nothing is exchanged
        source = sources[name]
        for size, shares in ways:
            before = Sharding(0, size, BATCH, drop_remainder=False, shares=shares)
            place = source.place_after(before, 2)
            done = _read(source, size, shares, 0, 2)
            for size_after, shares_after in ways:
                rest = _read(source, size_after, shares_after, place, None)
                assert sorted(done + rest) == list(range(60)), (name, size, size_after)
