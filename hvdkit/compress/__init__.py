"""Smaller models: distillation, pruning and quantization, in training over ranks or after it.

See docs/compressing.md, which has the papers, the order in which to use them, and their limits.
"""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.compress.distiller import Distiller
    from hvdkit.compress.pruning import Pruning
    from hvdkit.compress.quantization import quantize
    from hvdkit.compress.schedule import Cubic
    from hvdkit.compress.shrinking import shrink
    from hvdkit.compress.soft_targets import SoftTargets
    from hvdkit.compress.students import student_of
    from hvdkit.compress.units import Heads, Neurons, Weights
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={"hvdkit.compress.schedule": "Cubic"},
        training={
            "hvdkit.compress.distiller": "Distiller",
            "hvdkit.compress.pruning": "Pruning",
            "hvdkit.compress.quantization": "quantize",
            "hvdkit.compress.shrinking": "shrink",
            "hvdkit.compress.soft_targets": "SoftTargets",
            "hvdkit.compress.students": "student_of",
            "hvdkit.compress.units": "Heads Neurons Weights",
        },
    )

__all__ = [
    "Cubic",
    "Distiller",
    "Heads",
    "Neurons",
    "Pruning",
    "SoftTargets",
    "Weights",
    "quantize",
    "shrink",
    "student_of",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
