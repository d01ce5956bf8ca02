"""One rank of the jobs of benchmarks/plan.py: parallel_worker.py's, and one with sharded slots."""

from __future__ import annotations

import sys
from typing import Any

import keras
import parallel_worker
from parallel_forms import FORMS, Form

import hvdkit as hvd

SHARDED = "sharded"


def build_sharded(form: Form) -> keras.Model:
    """The GPT of the other forms, whose slots are divided over the ranks."""
    model = build(form)
    optimizer = keras.optimizers.AdamW(1e-4, global_clipnorm=1.0)
    exchange = hvd.exchange.Sharded()
    model.compile(hvd.DistributedOptimizer(optimizer, exchange=exchange), model.loss)
    return model


build: Any = parallel_worker.build

if __name__ == "__main__":
    name, *others = sys.argv[1:]
    if name == SHARDED:
        FORMS[SHARDED] = FORMS["data"]
        parallel_worker.build = build_sharded
    parallel_worker.main(name, *others)
