"""How a Transformer's layers are computed: by Keras, or by fused kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hvdkit.planner.activation_memory import KERAS_16_BIT, KERAS_FLOAT32, MEGATRON, Kept


@dataclass(frozen=True)
class Implementation:
    """What the layers of a Transformer move in memory, besides the matrix products' operands.

    In a forward pass of a layer, for each token of width w, a heads, s tokens of context:
    w (whole + divided) + a s scores bytes; whole is not divided by the tensor degree without
    sequence parallelism. The backward pass moves twice as much.

    Attributes:
        name: as it is asked for.
        kept: what the backward pass keeps.
        whole: bytes moved for each element between the sharded layers.
        divided: inside of them.
        scores: for each score of the attention.
        operations: on single elements that are started for a forward pass of a layer.
        flash: whether attention goes over the scores in pieces, never writes them, and leaves
            out those that a causal mask hides.
        state_bytes: bytes of weights, gradients and optimizer (AdamW) of a weight; None for what
            `plan_memory` counts of Keras.
    """

    name: str
    kept: Kept
    whole: float
    divided: float
    scores: float
    operations: int
    flash: bool = False
    state_bytes: tuple[float, float, float] | None = None


# Fused: two normalizations (4 bytes an element each), two bias-dropout-adds (7 each) outside;
# bias-GELU of four times the width (16) inside; softmax with mask (4) and dropout (5) of scores.
FUSED = Implementation(
    "fused", MEGATRON, whole=22, divided=16, scores=9, operations=8, state_bytes=(2, 4, 12)
)
FLASH = replace(
    FUSED, name="flash", kept=replace(MEGATRON, scores=0), scores=0, operations=6, flash=True
)
FLASH_OF_2023 = replace(FLASH, name="flash-2023")


# Keras's layers: what each operation of their graphs reads and writes, a third of both passes
# together. Of s b w numbers a normalization has 15 forward and 35 backward, the rest between
# sharded layers 10 and 12; inside of them GELU 36 and 96, all else 24 and 25; scores have 4 and 13.
KERAS_32 = Implementation("keras", KERAS_FLOAT32, whole=163, divided=241, scores=23, operations=60)
# Normalizations and the softmax compute with 32 bits, with casts before and after.
KERAS_16 = Implementation("keras", KERAS_16_BIT, whole=164, divided=120, scores=26, operations=60)


def implementation(name: str, bits: int) -> Implementation:
    """An implementation by its name: "keras", "fused", "flash" or "flash-2023".

    Raises:
        ValueError: there is none of this name.
    """
    if name == "keras":
        return KERAS_32 if bits == 32 else KERAS_16
    for known in (FUSED, FLASH, FLASH_OF_2023):
        if name == known.name:
            return known
    raise ValueError(
        f"there is no implementation {name!r}: there are keras, fused, flash, flash-2023."
    )
