"""Operations of TensorFlow's that tf2onnx does not know; importing this file teaches it them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tf2onnx import utils
from tf2onnx.handler import tf_op


@tf_op("Erfc")
class Erfc:
    """`1 - erf(x)`, which Keras's exact GELU is made of."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **options: Any) -> None:
        """For ONNX from its operators of version 9, which have Erf."""
        dtype, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
        given, outputs, name = node.input[0], list(node.output), node.name
        ctx.remove_node(name)
        erf = ctx.make_node("Erf", [given], shapes=[shape], dtypes=[dtype])
        number = np.array(1, utils.map_onnx_to_numpy_type(dtype))
        one = ctx.make_const(utils.make_name("one"), number)
        ctx.make_node(
            "Sub",
            [one.output[0], erf.output[0]],
            name=name,
            outputs=outputs,
            shapes=[shape],
            dtypes=[dtype],
        )
