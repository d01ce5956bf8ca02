"""The forms of parallelism that benchmarks/parallel.py compares, and what each has to send."""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.parallel import Degrees, Training, TransformerShape

SHAPE = TransformerShape(layers=8, width=256, heads=4, context=128, vocabulary=2048)
ROWS = 16
FLOAT32_BYTES = 4


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
        """What the plan of memory has to know."""
        return Training(
            ROWS, self.micro_batches, sequence_parallel=self.sequence_parallel, optimizer_slots=2
        )


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


def bytes_to_send(form: Form) -> float:
    """What all ranks together send in a step, in bytes.

    An all-reduce of B bytes over n ranks sends 2 B (n-1)/n a rank, a reduce-scatter or an
    all-gather to B bytes half of that. Of a tensor group send: each layer 4 all-reduces, forward
    and backward together; the embedding one, forward; the output layer one, backward; the cross
    entropy 3 numbers a token. Sequence parallelism halves the all-reduces and doubles their
    number, also those of the embedding and the output layer, which then send both ways. Stages
    send an activation and its gradient at each cut, from every rank of the tensor group.
    """
    degrees, shape = form.degrees, SHAPE
    tokens = ROWS // degrees.data * shape.context
    activation = tokens * shape.width * FLOAT32_BYTES
    around_a_layer = 4 * shape.layers + 2
    in_group = 2 * (degrees.tensor - 1) / degrees.tensor
    tensor = in_group * (around_a_layer * activation + 3 * tokens * FLOAT32_BYTES)
    if form.sequence_parallel:
        tensor += _sums_of_gradients(degrees) + in_group / 2 * shape.context * shape.width * 4
    cuts = degrees.data * (degrees.pipeline - 1) * degrees.tensor
    weights = degrees.tensor * sum(
        shape.parameters_of(stage, degrees) for stage in range(degrees.pipeline)
    )
    return (
        degrees.data * degrees.tensor * tensor
        + cuts * 2 * activation
        + 2 * (degrees.data - 1) * weights * FLOAT32_BYTES
    )


def _sums_of_gradients(degrees: Degrees) -> float:
    """What a rank sends to add up the gradients of whole weights next to parts of the sequence."""
    whole = 6 * SHAPE.width * SHAPE.layers + 2 * SHAPE.width
    return 2 * (degrees.tensor - 1) / degrees.tensor * whole * FLOAT32_BYTES
