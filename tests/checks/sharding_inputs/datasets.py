"""tf.data: datasets of samples and of batches, of unknown length and without an end."""

from __future__ import annotations

import tensorflow as tf
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import compare, global_batches, labelled_rows, number_of_rows

import hvdkit as hvd


@long
def check_dataset_of_samples() -> None:
    x, y = labelled_rows(number_of_rows(1))
    samples = tf.data.Dataset.from_tensor_slices((x, y))
    compare(global_batches(x, y), hvd.shard(samples, BATCH))


@long
def check_dataset_of_batches() -> None:
    x, y = labelled_rows(number_of_rows(1))
    batched = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).prefetch(1)
    compare(global_batches(x, y), hvd.shard(batched))


@long
def check_dataset_of_batches_of_a_size() -> None:
    x, y = labelled_rows(number_of_rows(1))
    batched = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).prefetch(1)
    compare(global_batches(x, y), hvd.shard(batched, BATCH))


@long
def check_dataset_of_unknown_length() -> None:
    x, y = labelled_rows(number_of_rows(1))
    spec = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int32))
    stream = tf.data.Dataset.from_generator(lambda: zip(x, y, strict=True), output_signature=spec)
    # Keras counts one step more in each epoch whose end it did not know; so does the reference.
    single = global_batches(x, y).filter(lambda *batch: tf.constant(True))
    compare(single, hvd.shard(stream, BATCH))


@long
def check_infinite_dataset() -> None:
    x, y = labelled_rows(number_of_rows(0))
    compare(
        global_batches(x, y).repeat(),
        hvd.shard(tf.data.Dataset.from_tensor_slices((x, y)).repeat(), BATCH),
        fit={"steps_per_epoch": 2},
        epochs=3,
    )


@long
def check_dataset_shuffled_by_shard() -> None:
    rows = number_of_rows(1)
    shard = hvd.shard(tf.data.Dataset.range(rows), BATCH, shuffle=True, seed=1)
    epochs = []
    for _ in range(2):
        own = [i for x, w in shard for i in x.numpy()[w.numpy() > 0]]
        everything = [i for other in hvd.allgather_object(own) for i in other]
        assert sorted(everything) == list(range(rows))
        epochs.append(everything)
    assert epochs[0] != epochs[1] != list(range(rows))
