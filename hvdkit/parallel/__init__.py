"""One model over several devices and ranks."""

from hvdkit.parallel.pipeline import schedules
from hvdkit.parallel.pipeline.model import PipelineModel

__all__ = ["PipelineModel", "schedules"]
