"""One model over several devices and ranks."""

from hvdkit.parallel.kept_activations import Kept
from hvdkit.parallel.memory_limit import rank_memory_limit
from hvdkit.parallel.memory_plan import (
    RankMemory,
    Training,
    misfit,
    plan_memory,
    smallest_mesh,
)
from hvdkit.parallel.memory_table import memory_table
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
from hvdkit.parallel.transformer import Degrees, TransformerShape
from hvdkit.parallel.whole import assign_whole_values, whole_values

__all__ = [
    "ColumnParallelDense",
    "Degrees",
    "GatherSequence",
    "HeadParallelAttention",
    "Kept",
    "PartDropout",
    "PipelineModel",
    "RankMemory",
    "RowParallelDense",
    "ScatterSequence",
    "SequenceParallel",
    "Training",
    "TransformerShape",
    "VocabularyParallelCrossEntropy",
    "VocabularyParallelEmbedding",
    "assign_whole_values",
    "memory_table",
    "misfit",
    "plan_memory",
    "rank_memory_limit",
    "schedules",
    "smallest_mesh",
    "whole_values",
]
