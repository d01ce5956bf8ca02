"""Datasets that each rank would read in an order, or with a choice of rows, of its own."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from hvdkit.data.lineage import Operation, Step, steps_of

_SHUFFLED = (
    "the dataset is shuffled without a seed, so each rank would see another order: write "
    ".shuffle(buffer_size, seed=...), or leave the shuffling to hvd.shard(..., shuffle=True)."
)
_FILES_SHUFFLED = (
    "the files are listed in an order that is drawn without a seed, so each rank would see another "
    "one: write list_files(..., seed=...), or shuffle=False; make_csv_dataset takes shuffle_seed."
)
_DRAWN = (
    "the dataset chooses rows by random numbers without a seed, so each rank would see others: "
    "give a seed, as in sample_from_datasets(..., seed=...), rejection_resample(..., seed=...) or "
    "Dataset.random(seed=...)."
)
_FILTERED = (
    "a filter of the dataset draws random numbers without a seed, so each rank would see other "
    "rows: give them one, as in tf.random.uniform((), seed=...)."
)
_UNORDERED = (
    "the dataset is read in an order that follows timing (deterministic=False in interleave, map "
    "or batch), so each rank would see another one: leave deterministic=False out."
)
_SERVED = (
    "a dataset from tf.data's service comes in another order to each rank: give hvd.shard the "
    "dataset itself, or divide by the service and give each rank's part to fit, without hvd.shard."
)


def problem_with_order(dataset: tf.data.Dataset) -> str | None:
    """Why ranks that read the same dataset would not see the same rows in the same order.

    A `map` may draw random numbers, as in augmentation: the rows stay the same.

    Args:
        dataset: any dataset.

    Returns:
        What is wrong and what to do; None where nothing is.
    """
    return next((text for step in steps_of(dataset) for text in _problems(step)), None)


def seeds_of(dataset: tf.data.Dataset) -> list[str]:
    """The seeds that decide the order of a dataset, in words; they have to agree."""
    return [
        f"{name} with TensorFlow's seeds {seeds}"
        for step in steps_of(dataset)
        for name, seeds in _draws(step)
        if seeds[0] is not None
    ]


def _problems(step: Step) -> Iterator[str]:
    if "DataService" in step.kind:
        yield _SERVED
    if getattr(step.dataset, "_deterministic", None) == "false" or any(
        operation.attribute("deterministic") == "false" or _is_sloppy(operation)
        for operation in step.operations
    ):
        yield _UNORDERED
    for name, seeds in _draws(step):
        if seeds == (0, 0):
            if name == "shuffle":
                yield _FILES_SHUFFLED if _lists_files(step) else _SHUFFLED
            else:
                yield _FILTERED if name == "filter" else _DRAWN


def _draws(step: Step) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
    """What draws the order or the choice of rows, and its seeds; (0, 0) means none."""
    if step.kind in ("Shuffle", "ShuffleAndRepeat", "Random"):
        pair = [tf.get_static_value(s) for s in (step.dataset._seed, step.dataset._seed2)]
        seeds = tuple(None if s is None else int(s) for s in pair)
        yield ("random" if step.kind == "Random" else "shuffle"), (seeds[0], seeds[1])
    chooses = step.kind in ("Filter", "TakeWhile")
    for operation in step.operations:
        found = operation.seeds()
        if found is None:
            continue
        if operation.kind.startswith("Shuffle") and "Dataset" in operation.kind:
            yield "shuffle", found
        elif operation.kind.startswith("RandomDataset"):
            yield "random", found
        elif chooses and operation.is_stateful():
            yield "filter", found


def _is_sloppy(operation: Operation) -> bool:
    return operation.kind.startswith("ParallelInterleave") and operation.flag("sloppy")


def _lists_files(step: Step) -> bool:
    """Whether the order is that of `tf.data.Dataset.list_files`."""
    if step.kind != "Shuffle":
        return False
    (source,) = step.inputs
    return source.kind == "TensorSlice" and source.dataset.element_spec == tf.TensorSpec(
        [], tf.string
    )
