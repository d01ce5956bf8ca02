"""One model over several devices and ranks."""

from hvdkit.parallel.devices.layer_split import LayerSplit
from hvdkit.parallel.devices.split_attention import SplitMultiHeadAttention
from hvdkit.parallel.devices.split_dense import SplitDense
from hvdkit.parallel.devices.split_embedding import SplitEmbedding
from hvdkit.parallel.devices.splitting import split
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
    "ColumnParallelDense",
    "GatherSequence",
    "HeadParallelAttention",
    "LayerSplit",
    "PartDropout",
    "PipelineModel",
    "RowParallelDense",
    "ScatterSequence",
    "SequenceParallel",
    "SplitDense",
    "SplitEmbedding",
    "SplitMultiHeadAttention",
    "VocabularyParallelCrossEntropy",
    "VocabularyParallelEmbedding",
    "assign_whole_values",
    "schedules",
    "split",
    "whole_values",
]
