"""One model over several devices and ranks."""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.parallel.automatic.compiling import plan_of
    from hvdkit.parallel.automatic.picture import draw
    from hvdkit.parallel.devices.attention import SplitMultiHeadAttention
    from hvdkit.parallel.devices.dense import SplitDense
    from hvdkit.parallel.devices.embedding import SplitEmbedding
    from hvdkit.parallel.devices.layer_split import LayerSplit
    from hvdkit.parallel.devices.split import split
    from hvdkit.parallel.pipeline.model import PipelineModel
    from hvdkit.parallel.tensor import (
        ColumnParallelDense,
        GatherSequence,
        HeadParallelAttention,
        PartDropout,
        RowParallelDense,
        ScatterSequence,
        SequenceParallel,
        ShardedDropout,
        VocabularyParallelCrossEntropy,
        VocabularyParallelEmbedding,
    )
    from hvdkit.planner.activation_memory import Kept
    from hvdkit.planner.memory_limit import rank_memory_limit
    from hvdkit.planner.memory_plan import RankMemory, Training, misfit, plan_memory, smallest_mesh
    from hvdkit.planner.memory_table import memory_table
    from hvdkit.planner.transformer import Degrees, TransformerShape
    from hvdkit.schedules import schedules
    from hvdkit.state.unsharded import (
        assign_unsharded_values,
        assign_whole_values,
        unsharded_values,
        whole_values,
    )
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={
            "hvdkit.planner.activation_memory": "Kept",
            "hvdkit.planner.memory_limit": "rank_memory_limit",
            "hvdkit.planner.memory_plan": "RankMemory Training misfit plan_memory smallest_mesh",
            "hvdkit.planner.memory_table": "memory_table",
            "hvdkit.planner.transformer": "Degrees TransformerShape",
            "hvdkit.schedules.schedules": "",
        },
        training={
            "hvdkit.parallel.automatic.compiling": "plan_of",
            "hvdkit.parallel.automatic.picture": "draw",
            "hvdkit.parallel.devices.attention": "SplitMultiHeadAttention",
            "hvdkit.parallel.devices.dense": "SplitDense",
            "hvdkit.parallel.devices.embedding": "SplitEmbedding",
            "hvdkit.parallel.devices.layer_split": "LayerSplit",
            "hvdkit.parallel.devices.split": "split",
            "hvdkit.parallel.pipeline.model": "PipelineModel",
            "hvdkit.parallel.tensor": (
                "ColumnParallelDense GatherSequence HeadParallelAttention PartDropout "
                "RowParallelDense ScatterSequence SequenceParallel ShardedDropout "
                "VocabularyParallelCrossEntropy VocabularyParallelEmbedding"
            ),
            "hvdkit.state.unsharded": (
                "assign_unsharded_values assign_whole_values unsharded_values whole_values"
            ),
        },
    )

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
    "ShardedDropout",
    "SplitDense",
    "SplitEmbedding",
    "SplitMultiHeadAttention",
    "Training",
    "TransformerShape",
    "VocabularyParallelCrossEntropy",
    "VocabularyParallelEmbedding",
    "assign_unsharded_values",
    "assign_whole_values",
    "draw",
    "memory_table",
    "misfit",
    "plan_memory",
    "plan_of",
    "rank_memory_limit",
    "schedules",
    "smallest_mesh",
    "split",
    "unsharded_values",
    "whole_values",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
