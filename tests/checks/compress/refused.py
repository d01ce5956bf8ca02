"""What can't be made smaller, or not so: one clear error on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from checks.compress.models import multilayer, plain_student, tagger, teacher
from checks.marks import long

import hvdkit as hvd
from hvdkit.compress import Cubic, Distiller, Heads, Neurons, Pruning, SoftTargets, Weights
from hvdkit.parallel import ColumnParallelDense

layers = keras.layers


def _refused(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        call()
    said = hvd.allgather_object(str(raised.value))
    assert said == [said[0]] * hvd.size(), said


def _fit(model: keras.Model, pruning: Pruning) -> None:
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    x = np.zeros((4, *model.input_shape[1:]))
    model.fit(x, np.zeros((4, *model.output_shape[1:])), verbose=0, callbacks=[pruning])


def check_schedules() -> None:
    for sparsity in (0, 1, 1.5, -0.1):
        _refused(lambda s=sparsity: Cubic(s, end=10), "above 0 and below 1")  # type: ignore[misc]
    _refused(lambda: Cubic(0.5, end=10, initial=0.6), "initial=0.6")
    _refused(lambda: Cubic(0.5, end=10, begin=20), "0 <= begin <= end")
    _refused(lambda: Cubic(0.5, end=10, every=0), "every >= 1")


def check_teachers_and_students() -> None:
    guide, student = teacher(0), plain_student(0)
    _refused(lambda: Distiller(guide, student, hard_weight=2), "from 0 to 1")
    _refused(lambda: Distiller(guide, student, temperature=0), "above 0")
    _refused(lambda: Distiller(guide, guide), "share weights")
    _refused(lambda: Distiller(guide, keras.Sequential([layers.Dense(3)])), "no variables yet")
    words = student.input
    other = keras.Model(words, layers.Dense(4)(student.layers[-2].output))
    _refused(lambda: Distiller(guide, other), r"\(None, 5, 3\), the student's \(None, 5, 4\)")
    two = keras.Model(words, [student.output, student.layers[-2].output])
    _refused(lambda: Distiller(guide, two), "several outputs")
    numbers = keras.Sequential([layers.Input((3,)), layers.Dense(1)])
    _refused(lambda: Distiller(keras.models.clone_model(numbers), numbers), "another soft_loss")
    scaled = keras.Model(words, layers.Rescaling(2.0)(layers.Dense(3)(student.layers[-2].output)))
    _refused(lambda: Distiller(guide, scaled), "student does not tell .*student_logits")
    Distiller(guide, scaled, soft_loss=SoftTargets(2.0))
    total = keras.losses.MeanSquaredError(reduction="sum")
    _refused(lambda: Distiller(guide, student, soft_loss=total), "average over rows")
    distiller = Distiller(guide, student)
    _refused(lambda: distiller.compile("sgd"), "compile needs a loss")
    _refused(lambda: distiller.compile("sgd", "mse", [1.0]), "hard_weight, not by loss_weights")
    _refused(lambda: hvd.compress.student_of(guide), "no row of blocks")
    _refused(lambda: hvd.compress.student_of(tagger(0, blocks=2), keep=[2]), "the blocks 0 to 1")
    _refused(lambda: hvd.compress.shrink(tagger(0)), "nothing to leave out")


@long
def check_layers_that_have_no_such_units() -> None:
    schedule = Cubic(0.5, end=2)
    _refused(lambda: _fit(multilayer(0), Pruning(schedule, Heads())), "no layers whose heads")
    _refused(
        lambda: _fit(multilayer(0), Pruning(schedule, Heads(["first"]))), "heads of first .* Dense"
    )
    _refused(lambda: _fit(multilayer(0), Pruning(schedule, Weights(["dens"]))), "no layer 'dens'")
    x = keras.Input((6,))
    skip = keras.Model(x, layers.Dense(6, name="second")(layers.Dense(6, name="first")(x)) + x)
    softmax = keras.Sequential(
        [layers.Input((6,)), layers.Dense(4, "softmax", name="soft"), layers.Dense(2)]
    )
    for model, layer, why in (
        (skip, "second", "meets something else"),
        (softmax, "soft", "looks at all of its units"),
        (tagger(0), "grouped", "no layer"),
    ):
        _refused(lambda m=model, n=layer: _fit(m, Pruning(schedule, Neurons([n]))), why)  # type: ignore[misc]
    grouped = layers.GroupQueryAttention(4, 4, 2, name="grouped")
    y = keras.Input((3, 8))
    model = keras.Model(y, grouped(y, y))
    _refused(lambda: _fit(model, Pruning(schedule, Heads(["grouped"]))), "GroupedQueryAttention")


def check_what_is_divided_over_ranks() -> None:
    hvd.set_mesh(hvd.Mesh(tensor=hvd.size()))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, ColumnParallelDense(2 * hvd.size(), gather_output=True)(inputs))
    _refused(lambda: _fit(model, Pruning(Cubic(0.5, end=2))), "divided over the tensor ranks")
    _refused(lambda: hvd.compress.quantize(model, "int8"), "divided over the tensor ranks")


def check_optimizers_of_other_weights() -> None:
    model = tagger(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hvd.DistributedOptimizer("adam"), loss)
    model.optimizer.build(model.trainable_variables)
    _refused(lambda: hvd.compress.quantize(model, "int8"), "an optimizer that was built")
    none = keras.Sequential([layers.Input((6,)), layers.Rescaling(2.0)])
    _refused(lambda: hvd.compress.quantize(none, "int8"), "no layer that was not quantized")
