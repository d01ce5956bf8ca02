"""One model over several devices and ranks."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from hvdkit.parallel.pipeline.model import PipelineModel

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
    "Degrees",
    "Kept",
    "RankMemory",
    "Training",
    "TransformerShape",
    "memory_table",
    "misfit",
    "plan_memory",
    "rank_memory_limit",
    "smallest_mesh",
]


def __getattr__(name: str) -> Any:
    # It wraps optimizers, which import the mesh of this package: so it can't be imported here.
    if name == "PipelineModel":
        from hvdkit.parallel.pipeline.model import PipelineModel

        return PipelineModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
