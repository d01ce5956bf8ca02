"""The place in the data means the same to any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from checks.marks import long

import hvdkit as hvd
from hvdkit.data.batch import data_of, is_real


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> np.ndarray:
        return np.arange(index * 2, min(21, index * 2 + 2))


def _sources() -> list[Any]:
    ids = np.arange(53)
    samples = tf.data.Dataset.from_tensor_slices(ids)
    return [
        hvd.shard(ids, 3, seed=4),
        hvd.shard(samples, 3),
        hvd.shard(samples, 3, shuffle=20, seed=4),
        hvd.shard(samples.batch(5), 3, shuffle=20, seed=4),
        hvd.shard(samples.batch(5), 3),
        hvd.shard(samples.filter(lambda i: i >= 0), 3),
        hvd.shard(Batches(workers=1), seed=4),
    ]


def _read(source: Any, ranks: int, first: int, steps: int | None) -> list[int]:
    """What all ranks of a job of some size would read, from a place on."""
    seen = []
    for rank in range(ranks):
        sharding = replace(source.sharding, rank=rank, size=ranks)
        data = source.source.dataset(sharding, lambda: 6, in_order=False, first=first)
        for batch in data.take(-1 if steps is None else steps):
            if is_real(batch):
                seen += np.asarray(data_of(batch)).ravel().tolist()
    return seen


@long
def check_no_sample_twice_and_none_left_out() -> None:
    for number, source in list(enumerate(_sources()))[hvd.rank() :: hvd.size()]:
        for before, after in ((3, 2), (2, 3)):
            done = _read(source, before, 0, 2)
            old = replace(source.sharding, rank=0, size=before)
            place = source.source.place_after(old, 2)
            rest = _read(source, after, place, None)
            everything = sorted(done + rest)
            count = 21 if number == 6 else 53
            assert everything == list(range(count)), (number, before, after, everything)


def check_position_of_a_loop() -> None:
    x = np.arange(50)
    data, again = hvd.shard(x, 4, seed=1), hvd.shard(x, 4, seed=1)
    list(data)
    whole = [ids.numpy().tolist() for ids, _ in data]
    list(again)
    for number, _ in enumerate(again):
        if number == 1:
            position = again.position(2)
            break
    later = hvd.shard(x, 4, seed=1)
    later.start_at(position)
    assert later.position(0) == position
    rest = [ids.numpy().tolist() for ids, _ in later]
    assert rest == whole[2:]
    assert later.position(0) == {"epoch": 2, "place": 0}
