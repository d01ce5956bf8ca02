"""hvd.shard: give each rank its shard of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal

import keras
import tensorflow as tf

from hvdkit.data.arrays import ArraySource
from hvdkit.data.batches import KeptBatchesSource, ShardedBatchesSource
from hvdkit.data.batching import batching_of, has_batches_of_one_shape
from hvdkit.data.contents import require_same_contents
from hvdkit.data.datasets import SHUFFLE_BLOCK_ROWS, DatasetSource
from hvdkit.data.mapped import MappedSource, RowFunction, packed_samples
from hvdkit.data.measured import shares_of
from hvdkit.data.misuse import require_batch_size, require_data
from hvdkit.data.pydatasets import PyDatasetSource
from hvdkit.data.sharded import ShardedData
from hvdkit.data.source import Sharding, Source
from hvdkit.engine import (
    HvdkitError,
    ProcessSet,
    global_process_set,
    raise_everywhere,
    require_initialized,
    require_same,
    topology,
)
from hvdkit.engine.elastic import require_inside
from hvdkit.engine.run_settings import ranks_are_compared
from hvdkit.mesh.mesh import over_replicas
from hvdkit.randomness import shared_seed


def shard(
    data: Any,
    batch_size: int | None = None,
    shuffle: bool | int | None = None,
    seed: int | None = None,
    *,
    remainder: Literal["pad", "drop"] = "pad",
    batched: bool | None = None,
    map: Callable[..., Any] | None = None,
    weights: Literal["measured"] | Sequence[float] | None = None,
    process_set: ProcessSet = global_process_set,
) -> ShardedData:
    """Divide data over the ranks, so that they read all of it, once, in equally many batches.

    N ranks with a batch size of B see in each step what one process with a batch size of N x B
    would see. Every rank calls it, with the same data and arguments.

    Args:
        data: all the data: what `fit` takes as arrays (NumPy, tensors, ragged and sparse ones,
            pandas, text), a tuple (x, y) or (x, y, sample_weight) of such or of lists, tuples
            and dictionaries of such; a `tf.data.Dataset` of samples or batches, of known,
            unknown or infinite length (then `fit` needs `steps_per_epoch`); or a
            `keras.utils.PyDataset`, whose batches are divided.
        batch_size: rows of one rank (or local device) in a batch. Not for a PyDataset; a batched
            dataset keeps its own if it is left out.
        shuffle: whether to shuffle each epoch, alike on every rank; a dataset is shuffled in
            blocks of this many rows (True: 10,000). Default: as in `fit`, arrays and
            PyDatasets are shuffled, datasets are not. `evaluate`, `predict` and
            `validation_data` read in order always.
        seed: seed of the shuffling; the order follows from it and the number of the epoch.
            Default: the seed of `hvd.set_random_seed`, or 0.
        remainder: what to do with the rows that do not divide. "pad" trains on them: each rank's
            loss counts as many rows as it has, and a rank without any gets a row of weight zero.
            "drop" leaves the last, short global batch out.
        batched: whether a dataset's elements are batches; default: find out from the dataset.
        map: a function of one row, (x), (x, y) or what the data has, as for
            `tf.data.Dataset.map`, that each rank calls for its own rows only, some at a time:
            to read and decode files, say. For arrays, lists, and datasets that are not batched.
        weights: for ranks that are not equally fast, what the rows of each in a global batch of N x
            B rows are in proportion to: one positive number for each rank, or "measured": equal
            shares at first, then as `fit` measures. Each rank gets one row at least, and fast
            ones more than batch_size. Default: equal shares. See `docs/unequal_machines.md`.
        process_set: the ranks to divide over. With a mesh (`hvd.set_mesh`), its `data_set`:
            the ranks of one replica of the model read the same rows.

    Returns:
        The rank's data, for `fit`, `evaluate`, `predict`, or a `for` loop.

    Raises:
        ValueError: on every rank: batch_size is not positive, fewer samples than ranks, a
            dataset whose order or choice of rows is drawn without a seed; weights that are not
            positive, not one for each rank, or for data of which ranks take whole batches.
        TypeError: on every rank: data that can't be divided, weights that are no numbers.
        RankMismatchError: on every rank: the ranks have different data or arguments.
        HvdkitError: called in an elastic job before the function that `hvd.elastic.run` runs.

    Example:
        >>> train = hvd.shard((x_train, y_train), batch_size=64, seed=1)
        >>> model.fit(train, epochs=3, validation_data=hvd.shard((x_test, y_test), 64))
        >>> images = hvd.shard((files, labels), 64, map=lambda file, label: (read(file), label))
        >>> train = hvd.shard((x_train, y_train), 64, weights=[2, 1, 1])  # rank 0 is twice as fast
    """
    require_initialized("hvd.shard()")
    require_inside("hvd.shard()")
    process_set = over_replicas(process_set)
    topology.require_member(process_set)
    if seed is None:
        seed = shared_seed() or 0
    sharding = Sharding(
        rank=topology.process_set_ranks(process_set).index(topology.rank()),
        size=topology.process_set_size(process_set),
        batch_size=batch_size,
        drop_remainder=remainder == "drop",
    )
    made, problem = _try_source(data, sharding, shuffle, seed, remainder, batched, map, weights)
    if sharding.size > 1:
        _raise_everywhere(problem, process_set)
        assert made is not None
        source, sharding = made
        require_same(
            "the sharded data",
            [
                *source.identity,
                f"batch_size {batch_size}",
                f"seed {seed}",
                f"shuffle {shuffle}",
                f"weights {sharding.shares.weights or weights}",
            ],
            process_set,
        )
        require_same_contents(lambda: source.contents(sampled=ranks_are_compared()), process_set)
    elif problem is not None:
        raise problem
    assert made is not None
    return ShardedData(*made, process_set)


def _raise_everywhere(problem: Exception | None, process_set: ProcessSet) -> None:
    """Raise on every rank what is wrong on any; what the user's own code raised stays what it is.

    Raises:
        ValueError, TypeError: on every rank: the data can't be divided.
        HvdkitError: on ranks where nothing is wrong: the data of another can't be read.
    """
    foreign = problem is not None and not isinstance(problem, (ValueError, TypeError))
    kind: type[Exception] = HvdkitError if foreign else TypeError
    if isinstance(problem, ValueError):
        kind = ValueError
    text = f"the data can't be read: {type(problem).__name__}: {problem}" if foreign else problem
    try:
        raise_everywhere(None if problem is None else str(text), kind, process_set)
    except Exception:
        if foreign:
            assert problem is not None
            raise problem from None
        raise


def _try_source(
    data: Any,
    sharding: Sharding,
    shuffle: bool | int | None,
    seed: int,
    remainder: str,
    batched: bool | None,
    function: RowFunction | None,
    weights: Any,
) -> tuple[tuple[Source, Sharding] | None, Exception | None]:
    try:
        require_data(data)
        require_batch_size(sharding.batch_size)
        if remainder not in ("pad", "drop"):
            raise ValueError(f'remainder is "pad" or "drop", not {remainder!r}.')
        size: Any = sharding.batch_size  # NumPy's integers are welcome
        if size is not None and (not isinstance(size, Integral) or size <= 0):
            raise ValueError(f"batch_size is a positive number of rows, not {size!r}.")
        sharding = replace(sharding, shares=shares_of(weights, sharding.size))
        source = _source(data, sharding, shuffle, seed, batched, function)
        source.check(sharding)
        if source.num_batches(sharding) == 0:
            raise ValueError(
                f"the data is less than one batch on each of the {sharding.size} ranks, and "
                'remainder="drop" leaves it out: choose a smaller batch_size, or remainder="pad".'
            )
    except Exception as error:  # the user's own, too: the other ranks wait to hear of it
        return None, error
    return (source, sharding), None


def _source(
    data: Any,
    sharding: Sharding,
    shuffle: bool | int | None,
    seed: int,
    batched: bool | None,
    function: RowFunction | None,
) -> Source:
    if isinstance(data, tf.data.Dataset):
        block = SHUFFLE_BLOCK_ROWS if shuffle is True else int(shuffle or 0)
        return _dataset_source(data, sharding, block, seed, batched, function)
    shuffles = True if shuffle is None else bool(shuffle)
    if isinstance(data, keras.utils.PyDataset):
        if function is not None:
            raise TypeError(
                "map is a function of single rows, and a PyDataset makes batches: call it in "
                "__getitem__, which a rank calls for its own batches only."
            )
        return PyDatasetSource(data, shuffles, seed)
    rows = ArraySource(data, shuffles, seed)
    return rows if function is None else MappedSource(rows, function)


def _dataset_source(
    data: tf.data.Dataset,
    sharding: Sharding,
    block: int,
    seed: int,
    batched: bool | None,
    function: RowFunction | None,
) -> Source:
    for spec in tf.nest.flatten(data.element_spec):
        if isinstance(spec, tf.data.DatasetSpec):
            raise TypeError(
                "the elements of this dataset are datasets (of .window(), maybe): make rows or "
                "batches of them, as .flat_map(lambda window: window.batch(n)) does."
            )
    batching = batching_of(data, batched)
    if function is not None:
        if batching.batched:
            raise TypeError(
                "map is a function of single rows, and this dataset is batched: give hvd.shard "
                "the dataset as it is before .batch(). (If it is not batched: batched=False.)"
            )
        samples, function = packed_samples(data, function)
        return MappedSource(DatasetSource(samples, batching, block, seed), function)
    if batching.batched and not has_batches_of_one_shape(data):
        if sharding.batch_size in (None, batching.rows):
            return KeptBatchesSource(data, batching, block, seed)
        if sharding.batch_size * sharding.size == batching.rows:
            return ShardedBatchesSource(data, batching, block, seed)
    if batching.batched and sharding.batch_size is None and batching.rows is None:
        return KeptBatchesSource(data, batching, block, seed)
    return DatasetSource(data, batching, block, seed)
