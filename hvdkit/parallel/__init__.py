"""One model over several devices and ranks."""

from hvdkit.parallel.devices.layer_split import LayerSplit
from hvdkit.parallel.devices.split_attention import SplitMultiHeadAttention
from hvdkit.parallel.devices.split_dense import SplitDense
from hvdkit.parallel.devices.split_embedding import SplitEmbedding
from hvdkit.parallel.devices.splitting import split
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
    "LayerSplit",
    "PartDropout",
    "PipelineModel",
    "RankMemory",
    "RowParallelDense",
    "ScatterSequence",
    "SequenceParallel",
    "SplitDense",
    "SplitEmbedding",
    "SplitMultiHeadAttention",
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
    "split",
    "whole_values",
]
