"""A layer whose weight is used twice in a model."""

from __future__ import annotations

import keras


class Reversible(keras.layers.Layer):
    """An embedding that is also the last layer's kernel."""

    def __init__(self, rows: int, columns: int, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.columns = rows, columns
        self.table = self.add_weight(
            (rows, columns), regularizer=keras.regularizers.L2(0.01), name="table"
        )

    def get_config(self):
        return {**super().get_config(), "rows": self.rows, "columns": self.columns}

    def call(self, x, reverse=False):
        if reverse:
            return keras.ops.matmul(x, keras.ops.transpose(self.table))
        return keras.ops.take(self.table, x, axis=0)
