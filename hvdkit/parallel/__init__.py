"""One model over several devices and ranks."""

from typing import TYPE_CHECKING, Any

from hvdkit.parallel.pipeline import schedules

if TYPE_CHECKING:
    from hvdkit.parallel.pipeline.model import PipelineModel

__all__ = ["PipelineModel", "schedules"]


def __getattr__(name: str) -> Any:
    # It wraps optimizers, which import the mesh of this package: so it can't be imported here.
    if name == "PipelineModel":
        from hvdkit.parallel.pipeline.model import PipelineModel

        return PipelineModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
