"""Train on a Spark cluster: `hvdkit.spark.run` calls a function on ranks in a barrier stage.

Nothing of Spark is loaded before it is used.
"""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.jobs.get_shard import get_shard
    from hvdkit.spark.job import run
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={"hvdkit.jobs.get_shard": "get_shard", "hvdkit.spark.job": "run"},
    )

__all__ = ["get_shard", "run"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
