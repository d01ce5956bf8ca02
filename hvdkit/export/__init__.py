"""Models in the formats of other runtimes, SavedModel, ONNX and LiteRT, and run by those.

`hvd.export_model` writes one; `load` runs it, without TensorFlow where the format needs none.
"""

from typing import TYPE_CHECKING

from hvdkit import lazy

if TYPE_CHECKING:
    from hvdkit.errors import ExportError, ModelInputError
    from hvdkit.export.exporting import Exported
    from hvdkit.export.runtimes.base import Runtime, TensorSpec
    from hvdkit.export.runtimes.loading import load
else:
    __getattr__ = lazy.lazy_names(
        __name__,
        alone={
            "hvdkit.errors": "ExportError ModelInputError",
            "hvdkit.export.runtimes.base": "Runtime TensorSpec",
            "hvdkit.export.runtimes.loading": "load",
        },
        training={"hvdkit.export.exporting": "Exported"},
    )

__all__ = ["ExportError", "Exported", "ModelInputError", "Runtime", "TensorSpec", "load"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
