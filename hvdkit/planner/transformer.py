"""The sizes of a Transformer, and of the mesh that divides it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Degrees:
    """The sizes of a mesh, as those of `hvd.Mesh`, for which no ranks are needed.

    Attributes:
        data: number of replicas.
        pipeline: number of stages of a replica.
        tensor: number of ranks of a stage.
    """

    data: int = 1
    pipeline: int = 1
    tensor: int = 1

    @property
    def ranks(self) -> int:
        """Number of ranks of the job."""
        return self.data * self.pipeline * self.tensor

    def __str__(self) -> str:
        return f"data {self.data} x pipeline {self.pipeline} x tensor {self.tensor}"


@dataclass(frozen=True)
class TransformerShape:
    """The sizes of a GPT.

    Attributes:
        layers: number of Transformer layers.
        width: size of the vectors between layers.
        heads: number of attention heads, each of `width / heads`.
        context: length of a sequence, in tokens.
        vocabulary: number of tokens, with padding.
        tied: whether the output layer has the weights of the embedding.

    Example:
        >>> TransformerShape(12, 768, 12, 1024, 50257, tied=True).parameters
        124439808
    """

    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    tied: bool = False

    @property
    def parameters(self) -> int:
        """Number of weights of the unsharded model."""
        return self.parameters_of(stage=0, degrees=Degrees())

    def parameters_of(self, stage: int, degrees: Degrees) -> int:
        """Number of weights that a rank of a stage holds.

        A layer has 12 w^2 + 13 w of width w: 4 w^2 in the attention, 8 w^2 in the feed-forward
        layer. The biases of the two layers that add up over the ranks of a tensor group, and the
        two normalizations, are unsharded (6 w).
        """
        sharded, unsharded = 12 * self.width**2 + 7 * self.width, 6 * self.width
        count = self.layers // degrees.pipeline * (sharded // degrees.tensor + unsharded)
        embedding = self.vocabulary * self.width // degrees.tensor
        if stage == 0:
            count += embedding + self.context * self.width
        if stage == degrees.pipeline - 1:
            count += 2 * self.width + (0 if self.tied else embedding)
        return count
