"""The documentation says what hvdkit changes in Keras, once everything was used."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import keras
import numpy as np
from checks.marks import long

import hvdkit as hvd
from hvdkit import patches, randomness
from hvdkit.mesh.mesh import set_mesh
from hvdkit.parallel import ColumnParallelDense, LayerSplit, SplitDense
from hvdkit.parallel.automatic import compiling, logits

from . import meshes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reliability.md"
_ROW = re.compile(r"^\| `([\w.`, ]+)` \| ([^|]+) \|", re.MULTILINE)


def _use_everything() -> None:
    hvd.set_random_seed(0)
    randomness._seed = None  # other checks of this job have ranks that draw alike
    hvd.DistributedOptimizer("sgd")
    LayerSplit([keras.layers.Dense(2)], devices=["CPU:0"])(np.zeros((1, 2)))
    SplitDense(2, devices=["CPU:0"])(np.zeros((1, 2)))
    hvd.broadcast_variables([keras.Variable(1.0)], root_rank=0)
    set_mesh(meshes.made()[0])
    ColumnParallelDense(4 * hvd.size())(np.zeros((1, 2)))
    set_mesh(None)
    patches.install(compiling._PATCH, logits._PATCH)  # as hvd.parallelize does


def _declared() -> list[patches.Patch]:
    """All patches in hvdkit's modules, as they are written there."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith("hvdkit."):
            for value in vars(module).values():
                several = value if isinstance(value, tuple) else (value,)
                found += [each for each in several if isinstance(each, patches.Patch)]
    return found


@long
def check_the_documentation_lists_all_patches() -> None:
    _use_everything()
    installed = {patch.place: patch.why for patch in patches.installed()}
    assert {patch.place for patch in _declared()} == set(installed)
    section = PAGE.read_text().split("## What hvdkit changes in Keras")[1].split("\n## ")[0]
    written = {
        place.strip(" `"): why.strip()
        for places, why in _ROW.findall(section)
        for place in places.split(",")
    }
    assert written == installed
