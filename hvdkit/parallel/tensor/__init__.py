"""Layers that are sharded over the ranks of a tensor group."""

from hvdkit.parallel.tensor.attention import HeadParallelAttention
from hvdkit.parallel.tensor.dense import ColumnParallelDense, RowParallelDense
from hvdkit.parallel.tensor.dropout import PartDropout, ShardedDropout
from hvdkit.parallel.tensor.embedding import VocabularyParallelEmbedding
from hvdkit.parallel.tensor.loss import VocabularyParallelCrossEntropy
from hvdkit.parallel.tensor.sequence import GatherSequence, ScatterSequence, SequenceParallel
from hvdkit.parallel.tensor.traffic import Traffic, count_traffic

__all__ = [
    "ColumnParallelDense",
    "GatherSequence",
    "HeadParallelAttention",
    "PartDropout",
    "RowParallelDense",
    "ScatterSequence",
    "SequenceParallel",
    "ShardedDropout",
    "Traffic",
    "VocabularyParallelCrossEntropy",
    "VocabularyParallelEmbedding",
    "count_traffic",
]
