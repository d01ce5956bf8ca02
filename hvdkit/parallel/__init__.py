"""One model over several devices and ranks."""

from hvdkit.parallel.pipeline import schedules
from hvdkit.parallel.pipeline.model import PipelineModel
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
    "PipelineModel",
    "schedules",
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
