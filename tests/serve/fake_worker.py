"""A worker whose models do what their file says; models/m/1/model.onnx holds JSON.

`plus`: what is added to each row; `sleep`: seconds of a run; `load`: "raise", "crash" or "hang";
`mean`: whether a row gets the mean of the batch, which no server may let strangers see.
A row with 666 raises an error, one with 667 crashes the process, one with 1000 + s takes s seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hvdkit.export.runtimes import TensorSpec
from hvdkit.serving.worker import main


class Fake:
    """y = 2 x + plus, and text in capitals."""

    def __init__(self, path: Path) -> None:
        self._says = json.loads(path.read_text())
        self.outputs = [TensorSpec("y", "float32", (None, None))]
        self.inputs = [TensorSpec("x", "float32", (None, None))]
        if self._says.get("text"):
            self.inputs = [TensorSpec("words", "str", (None, 1))]
            self.outputs = [TensorSpec("words", "str", (None, 1))]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep(self._says.get("sleep", 0))
        if self._says.get("text"):
            capitals = [[word.decode().upper()] for (word,) in inputs["words"]]
            return {"words": np.array(capitals, object)}
        x = inputs["x"]
        if (x == 666).any():
            raise ValueError(f"there is a 666 in {x.tolist()}")
        if (x == 667).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(sum(value - 1000 for value in x.ravel().tolist() if 1000 < value <= 1060))
        y = 2 * x + np.float32(self._says.get("plus", 0))
        return {"y": y + x.mean() if self._says.get("mean") else y}


def load(path: Path, threads: int | None) -> Fake:
    """Load it, or fail as it says."""
    print("the runtime says something")
    fault = json.loads(path.read_text()).get("load")
    if fault == "raise":
        raise ValueError("this model is corrupted")
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        time.sleep(60)
    return Fake(path)


if __name__ == "__main__":
    main(load)
