"""What the backward pass of a Transformer keeps of its forward pass.

Source: Reducing Activation Recomputation in Large Transformer Models, arXiv 2205.05198, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvdkit.planner.transformer import TransformerShape


@dataclass(frozen=True)
class Kept:
    """What the backward pass keeps of a layer's forward pass.

    For b rows of s tokens, width w, a heads, and tensor degree t a layer keeps, in bytes,

        s b w (whole + divided / t) + scores a s^2 b / t

    where `whole` is divided by t too with sequence parallelism, but for what is gathered at the
    beginnings of attention and feed-forward. With a tensor group (t > 1), what is summed over it
    at their ends may be kept as well, and with sequence parallelism both that and what is
    gathered: `exchanged` each.

    Attributes:
        whole: for each element of the activations between the sharded layers.
        divided: for each element of the activations, inside of the sharded layers.
        scores: for each element of the attention's scores.
        exchanged: for each element of the activations, for the two sums, or the two gathers.
        logits: for each logit.
        gathered: of `whole`, what sequence parallelism gathers.
    """

    whole: float
    divided: float
    scores: float
    exchanged: float = 0.0
    logits: float = 4.0
    gathered: float = 0.0

    def layer(self, shape: TransformerShape, rows: int, tensor: int, on_parts: bool) -> float:
        """Bytes that a rank keeps of a layer, with `on_parts` for sequence parallelism."""
        elements = shape.context * rows * shape.width
        return (
            elements * (self._whole(tensor, on_parts) + self.divided / tensor)
            + self.scores * shape.heads * shape.context**2 * rows / tensor
        )

    def head(self, shape: TransformerShape, rows: int, tensor: int, on_parts: bool) -> float:
        """Bytes that a rank keeps of the last normalization and the logits."""
        tokens = shape.context * rows
        # A layer has two normalizations, of which each has half of what is kept here.
        normalized = tokens * shape.width * self._whole(tensor, on_parts) / 2
        return normalized + self.logits * tokens * shape.vocabulary / tensor

    def _whole(self, tensor: int, on_parts: bool) -> float:
        if tensor == 1:
            return self.whole
        if on_parts:
            parts = (self.whole - self.gathered) / tensor
            return parts + self.gathered + 2 * self.exchanged
        return self.whole + self.exchanged


MEGATRON = Kept(whole=10, divided=24, scores=5)
"""Of arXiv 2205.05198, with 16-bit activations and dropout: s b w (34 + 5 a s / w)."""

# Counted in the graphs of Keras's layers, which keep more than fused ones would: the steps of GELU
# and of a normalization, and scores before and after the softmax, which runs in float32. Those of
# pipelines give their backward function also what only gradients need that nobody asks for.
KERAS_FLOAT32 = Kept(whole=24, divided=112, scores=9, exchanged=8, logits=8)
KERAS_16_BIT = Kept(whole=20, divided=56, scores=11, exchanged=4, logits=8)
KERAS_FLOAT32_STEP = Kept(whole=24, divided=80, scores=5, logits=8, gathered=8)
KERAS_16_BIT_STEP = Kept(whole=20, divided=40, scores=7, logits=8, gathered=4)
