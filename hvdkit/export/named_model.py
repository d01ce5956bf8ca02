"""What Keras is given to export: a model whose inputs and outputs have names in all formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from hvdkit.export.interface import Interface


class NamedModel(keras.Model):
    """A model that takes and returns dicts, as its interface names what goes in and comes out.

    Keras itself names what it exports by the structure: not at all for some models, in another
    way for each format, and not legally if a name of an input has a space.

    Args:
        interface: how the model is called.
    """

    def __init__(self, interface: Interface) -> None:
        # What goes in is converted by the model itself, or not at all.
        super().__init__(name=interface.model.name, autocast=False)
        self.model = interface.model
        self._interface = interface
        self.built = True

    def call(self, tensors: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """The outputs by name, as for inference."""
        return self._interface(tensors)

    def write(self, path: str, kind: str, **options: Any) -> None:
        """Let Keras export the model.

        Args:
            path: the file or folder.
            kind: what Keras calls the format.
            **options: Keras's own, for this format.
        """
        self.export(
            path,
            format=kind,
            verbose=False,
            input_signature=[self._interface.signature()],
            **options,
        )
