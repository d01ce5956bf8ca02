"""One model over several devices and ranks."""

from hvdkit.parallel.tensor import (
    ColumnParallelDense,
    GatherSequence,
    HeadParallelAttention,
    PartDropout,
    RowParallelDense,
    ScatterSequence,
    SequenceParallel,
    VocabularyParallelCrossEntropy,
    VocabularyParallelEmbedding,
)
from hvdkit.parallel.whole import assign_whole_values, whole_values

__all__ = [
    "ColumnParallelDense",
    "GatherSequence",
    "HeadParallelAttention",
    "PartDropout",
    "RowParallelDense",
    "ScatterSequence",
    "SequenceParallel",
    "VocabularyParallelCrossEntropy",
    "VocabularyParallelEmbedding",
    "assign_whole_values",
    "whole_values",
]
