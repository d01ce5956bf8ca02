"""The forms of parallelism that benchmarks/parallel.py compares, and what each has to send."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hvdkit.parallel import Degrees, Training, TransformerShape

SHAPE = TransformerShape(layers=8, width=256, heads=4, context=128, vocabulary=2048)
ROWS = 16
FLOAT32_BYTES, INDEX_BYTES = 4, 8


@dataclass(frozen=True)
class Form:
    """A way to divide the model.

    Attributes:
        title: what tables call it.
        degrees: the mesh.
        devices: logical devices of the process, for a model split over them.
        micro_batches: of a replica's rows.
        sequence_parallel: whether what is between divided layers is divided, too.
    """

    title: str
    degrees: Degrees
    devices: int = 1
    micro_batches: int = 1
    sequence_parallel: bool = False

    @property
    def training(self) -> Training:
        """What the plan of memory has to know.

        A process with several devices keeps the micro-batches of all of them.
        """
        micro_batches = self.micro_batches if self.devices == 1 else 1
        return Training(ROWS, micro_batches, sequence_parallel=self.sequence_parallel)


FORMS = {
    "unsplit": Form("unsplit, one process", Degrees()),
    "data": Form("data 2", Degrees(data=2)),
    "tensor": Form("tensor 2", Degrees(tensor=2)),
    "sequence": Form("tensor 2, sequence parallel", Degrees(tensor=2), sequence_parallel=True),
    "pipeline": Form("pipeline 2", Degrees(pipeline=2), micro_batches=4),
    "devices": Form("split over 2 devices", Degrees(), devices=2, micro_batches=4),
    "data-pipeline": Form("data 2 x pipeline 2", Degrees(2, 2, 1), micro_batches=4),
    "data-tensor": Form("data 2 x tensor 2", Degrees(2, 1, 2)),
    "pipeline-tensor": Form("pipeline 2 x tensor 2", Degrees(1, 2, 2), micro_batches=4),
}


def ids_of_replica(form: Form, replica: int) -> np.ndarray:
    """The tokens of a replica's rows, with the one that follows: [rows, context + 1], int32."""
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (ROWS, SHAPE.context + 1))
    return ids[replica :: form.degrees.data].astype("int32")


def bytes_to_send(form: Form) -> float:
    """What all ranks together send in a step, in bytes.

    An all-reduce of B bytes over n ranks sends 2 B (n-1)/n a rank, a reduce-scatter or an
    all-gather to B bytes half of that.
    """
    degrees = form.degrees
    groups = degrees.data * degrees.tensor * _in_tensor_group(form)
    return groups + _between_stages(degrees) + _between_replicas(form)


def _in_tensor_group(form: Form) -> float:
    """What one rank of each stage sends to its tensor group.

    In each layer 4 all-reduces of the activations, forward and backward together; at the embedding
    one, forward; at the output layer one, backward; for the cross entropy 3 numbers a token.
    Sequence parallelism has two collectives of half of that for each, and gathers the gradient of
    the positions, and adds up those of the weights that see a part of the sequence.
    """
    shape, tensor = SHAPE, form.degrees.tensor
    tokens = ROWS // form.degrees.data * shape.context
    all_reduces = (4 * shape.layers + 2) * tokens * shape.width + 3 * tokens
    sent = 2 * all_reduces
    if form.sequence_parallel:
        weights = 6 * shape.width * shape.layers + 2 * shape.width
        sent += shape.context * shape.width + 2 * weights
    return sent * (tensor - 1) / tensor * FLOAT32_BYTES


def _between_stages(degrees: Degrees) -> float:
    """An activation and its gradient at each cut, from every rank of the tensor group."""
    activation = ROWS // degrees.data * SHAPE.context * SHAPE.width * FLOAT32_BYTES
    return 2 * activation * degrees.data * (degrees.pipeline - 1) * degrees.tensor


def _between_replicas(form: Form) -> float:
    """All gradients; of the embedding the rows that a replica has tokens of, with their numbers."""
    degrees, shape = form.degrees, SHAPE
    weights = sum(shape.parameters_of(stage, degrees) for stage in range(degrees.pipeline))
    dense = weights * degrees.tensor - shape.vocabulary * shape.width
    rows = sum(len(np.unique(ids_of_replica(form, r)[:, :-1])) for r in range(degrees.data))
    row = shape.width * FLOAT32_BYTES + INDEX_BYTES
    return (degrees.data - 1) * (2 * dense * FLOAT32_BYTES + rows * row)
