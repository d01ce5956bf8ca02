"""What a teacher and a student must have in common, and a teacher on all ranks."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.engine import RankMismatchError, is_initialized, topology
from hvdkit.graph.layer_sequence import graph_of
from hvdkit.mesh.variable import can_be_sent, is_seed_state, variable_key
from hvdkit.parallel.pipeline.model import PipelineModel
from hvdkit.state.differences import NAMED, find_differences, find_other_layers, summary
from hvdkit.state.digest import digests_of
from hvdkit.state.groups import alike


def require_fitting(teacher: Any, student: Any) -> None:
    """Refuse models of which one can't teach the other.

    Raises:
        ValueError: with the reason.
    """
    for role, model in (("teacher", teacher), ("student", student)):
        if not isinstance(model, keras.Model):
            raise ValueError(f"the {role} is a keras.Model, not a {type(model).__name__}.")
        if isinstance(model, PipelineModel):
            raise ValueError(
                f"the {role} is divided over pipeline ranks, of which none sees all of its "
                "outputs: use the model without stages."
            )
        if not model.built:
            raise ValueError(
                f"the {role} has no variables yet: give it an Input, or call it on a batch first."
            )
        if isinstance(_outputs(model), (list, tuple, dict)):
            raise ValueError(
                f"the {role} has several outputs, and one is compared: make it a model of that "
                "one, as in keras.Model(model.inputs, model.outputs[0])."
            )
    common = {variable_key(v) for v in teacher.variables} & {
        variable_key(v) for v in student.variables
    }
    if common:
        shared = next(v for v in student.variables if variable_key(v) in common)
        raise ValueError(
            f"teacher and student share weights ({shared.path}), so training the student would "
            "change the teacher: make the student with keras.models.clone_model."
        )
    given, learnt = _output_shape(teacher), _output_shape(student)
    if given is not None and learnt is not None and not _match(given, learnt):
        raise ValueError(
            f"the teacher's outputs have the shape {given}, the student's {learnt}: they have to "
            "be the same classes."
        )


def gives_logits(model: Any, role: str) -> bool:
    """Whether a model's outputs over classes are logits, and not probabilities, by its last layer.

    Args:
        model: the model.
        role: what messages call it.

    Raises:
        ValueError: they are no classes, or the last layer does not tell.
    """
    shape = _output_shape(model)
    last = _last_layer(model)
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", None)
    if isinstance(last, keras.layers.Softmax):
        name = "softmax"
    if name == "sigmoid" or (shape is not None and shape[-1] == 1):
        raise ValueError(
            f"the {role}'s outputs are not probabilities of classes that add up to 1, which soft "
            "targets are about: give it one output for each class, or a Distiller another "
            "soft_loss, such as keras.losses.BinaryCrossentropy() or MeanSquaredError()."
        )
    if name not in ("softmax", "linear"):
        raise ValueError(
            f"the last layer of the {role} does not tell whether it gives logits or probabilities: "
            f"give soft_loss=hvd.compress.SoftTargets(temperature, {role}_logits=...)."
        )
    return bool(name == "linear")


def require_same_teacher(teacher: Any, optimizer: Any) -> None:
    """Compare the teacher over the ranks that train together. All of them call it.

    Args:
        teacher: the model.
        optimizer: the one that trains the student.

    Raises:
        RankMismatchError: on every rank: it differs.
    """
    if not is_initialized() or topology.size() == 1:
        return
    group = alike(optimizer)[-1]
    if not group.compares:
        return
    variables = [v for v in teacher.variables if can_be_sent(v) and not is_seed_state(v)]
    digests = digests_of(teacher, "teacher", variables, group.ranks)
    differing = [variables[i] for i in digests.differing()]
    texts = []
    if differing:
        found = find_differences(differing[:NAMED], group.ranks)
        texts.append(summary(found, len(differing)))
    if layers := find_other_layers(teacher, group.ranks):
        texts.append(f"layers that compute with something that no variable holds: {layers}")
    if texts:
        raise RankMismatchError(
            f"the ranks have different teachers: {'; '.join(texts)}. Load the same file on every "
            "rank, or send one rank's with hvd.broadcast_layers(teacher, root_rank=0)."
        )


def _outputs(model: Any) -> Any:
    """What a model gives, as it gives it; None where Python code of its own decides."""
    try:
        return graph_of(model)._outputs_struct
    except ValueError:
        return None


def _output_shape(model: Any) -> tuple[int | None, ...] | None:
    outputs = _outputs(model)
    return None if outputs is None else tuple(outputs.shape)


def _match(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    return len(one) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one, other, strict=True)
    )


def _last_layer(model: Any) -> Any:
    """The layer that a model's output comes from, in nested models, too; None if not known."""
    outputs = _outputs(model)
    layer = None if outputs is None else outputs._keras_history.operation
    return _last_layer(layer) if isinstance(layer, keras.Model) else layer
