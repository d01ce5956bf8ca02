"""A student over ranks learns what it learns in one process, and the teacher stays as it is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.checkpoints.runs import shared_folder
from checks.compress.models import plain_student, sentences, tagger, teacher
from checks.marks import long
from checks.reference import same_on_all_ranks

import hvdkit as hvd

TEMPERATURE, HARD, BATCH = 3.0, 0.3, 4
_LOSS = "sparse_categorical_crossentropy"


def _by_hand(student: keras.Model, logits: np.ndarray, rows: tuple, steps: list[slice]) -> None:
    """The formula of Hinton et al. in one process, with plain SGD."""
    x, y, weights = rows
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    for step in steps:
        with tf.GradientTape() as tape:
            given = student(x[step])
            hard = -tf.math.log(tf.gather(given, y[step], axis=-1, batch_dims=2))
            powers = given ** (1 / TEMPERATURE)
            own = tf.math.log(powers / tf.reduce_sum(powers, -1, keepdims=True))
            soft = tf.nn.softmax(logits[step] / TEMPERATURE)
            divergence = tf.reduce_sum(soft * (tf.math.log(soft) - own), -1)
            each = HARD * hard + (1 - HARD) * TEMPERATURE**2 * divergence
            loss = tf.reduce_mean(each * weights[step])
        gradients = tape.gradient(loss, student.trainable_variables)
        optimizer.apply(gradients, student.trainable_variables)


@long
def check_distilled_as_in_one_process() -> None:
    rows = sentences(6 * BATCH * hvd.size() + 3)  # the last batch is short
    guide = teacher(1)
    before = [np.array(v) for v in guide.variables]  # seeds, too
    reference = plain_student(2)
    step = BATCH * hvd.size()
    steps = [slice(i, i + step) for i in range(0, len(rows[0]), step)]
    _by_hand(reference, np.asarray(guide(rows[0], training=False)), rows, steps)

    student = plain_student(2 if hvd.rank() == 0 else 70 + hvd.rank())
    distiller = hvd.compress.Distiller(guide, student, temperature=TEMPERATURE, hard_weight=HARD)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.5, momentum=0.9))
    distiller.compile(optimizer, _LOSS, weighted_metrics=["accuracy"])
    folder = shared_folder()
    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.ModelCheckpoint(str(folder / "student.keras")),
        hvd.callbacks.BackupAndRestore(folder / "backup"),
    ]
    data = hvd.shard(rows, batch_size=BATCH, shuffle=False)
    distiller.fit(data, epochs=1, verbose=0, callbacks=callbacks)
    for mine, expected in zip(student.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=2e-4, atol=2e-5)
    same_on_all_ranks(student)
    for variable, value in zip(guide.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)
    assert guide.trainable
    hvd.barrier()
    file = keras.models.load_model(folder / "student.keras")
    np.testing.assert_allclose(file(rows[0]), student(rows[0]), atol=1e-6)
    assert file.count_params() == student.count_params()


def check_other_teachers_are_noticed() -> None:
    distiller = hvd.compress.Distiller(teacher(hvd.rank()), plain_student(0))
    distiller.compile(hvd.DistributedOptimizer("sgd"), _LOSS)
    x, y, _ = sentences(8)
    with pytest.raises(hvd.RankMismatchError, match=r"different teachers: .*broadcast_layers"):
        distiller.fit(x, y, verbose=0)


@long
def check_masks_penalties_and_precision_are_those_of_the_student() -> None:
    """With the hard loss alone a student learns as it does without a teacher."""

    def model(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        words = keras.Input((5,), dtype="int32")
        x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
        x = keras.layers.LSTM(6, return_sequences=True, kernel_regularizer="l2")(x)
        return keras.Model(words, keras.layers.Dense(3, "softmax", dtype="float32")(x))

    x, y, _ = sentences(16)
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        alone, student = model(4), model(4)
        keras.config.set_dtype_policy("float32")
        distiller = hvd.compress.Distiller(teacher(0), student, hard_weight=1)
        for one in (alone, distiller):
            one.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), _LOSS)
            one.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        for mine, theirs in zip(student.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5, err_msg=policy)


@long
def check_masks_weigh_the_soft_loss() -> None:
    """What an embedding's mask leaves out does not count."""
    keras.utils.set_random_seed(0)
    words = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(13, 4, mask_zero=True)(words)
    student = keras.Model(words, keras.layers.Dense(3)(x))
    x, _, counts = sentences(8)
    distiller = hvd.compress.Distiller(teacher(1), student, hard_weight=0)
    distiller.compile(hvd.DistributedOptimizer("sgd"))
    loss = distiller.compute_loss(x, y_pred=distiller(x))
    each = hvd.compress.SoftTargets(2.0)
    each.reduction = None
    plain = np.asarray(each(np.asarray(teacher(1)(x)), np.asarray(student(x))))
    np.testing.assert_allclose(loss, (plain * counts).sum() / counts.sum(), rtol=1e-5)
    distiller.fit(x, verbose=0)  # without labels


@long
def check_in_stages_of_an_exchange_and_with_local_steps() -> None:
    x, y, weights = sentences(32)
    for exchange in (hvd.exchange.LocalSGD(2), hvd.exchange.Sharded()):
        student = tagger(hvd.rank())
        distiller = hvd.compress.Distiller(teacher(1), student)
        distiller.compile(
            hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), exchange=exchange),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
        data = hvd.shard((x, y, weights), batch_size=4)
        losses = distiller.fit(data, epochs=4, verbose=0, callbacks=[start]).history["loss"]
        assert losses[-1] < losses[0]
        same_on_all_ranks(student)
