"""A `tf.data.Dataset` that is made when it is asked for.

Classes with a `fit` of their own, such as KerasHub's tasks, look whether they get a
`tf.data.Dataset`, map their preprocessing over it, and hand the result to Keras's `fit`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class LazyDataset(tf.data.Dataset):
    """A `tf.data.Dataset` that is made when one of the dataset's own methods asks for it."""

    def __init__(self) -> None:
        # That of tf.data.Dataset is called by `_made`.
        pass

    def _make(self) -> tf.data.Dataset:
        """The dataset. To be given by subclasses."""
        raise NotImplementedError

    def _made(self) -> tf.data.Dataset:
        if "_dataset" not in vars(self):
            self._dataset = self._make()
            super().__init__(self._dataset._variant_tensor)
        return self._dataset

    def __getattr__(self, name: str) -> Any:
        # TensorFlow's attributes, such as _variant_tensor_attr, are there once it is made.
        inner = name.startswith("_") and not name.startswith("__")
        if not inner or "_dataset" in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._made()
        return getattr(self, name)

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._made()]

    @property
    def element_spec(self) -> Any:
        """Shapes and types of a batch."""
        return self._made().element_spec
