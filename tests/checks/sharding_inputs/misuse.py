"""Calls that look right: a sentence each, with the remedy, and no array in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import pytest
from checks.marks import long
from checks.reference import BATCH
from checks.sharding.reference import classifier, compiled, labelled_rows
from checks.sharding_inputs.plain_data import _said

import hvdkit as hvd

ROWS = 95
LONGEST = 500


class DataLoader:
    """Stands for torch's."""


DataLoader.__module__ = "torch.utils.data.dataloader"


@long
def check_sentences_with_the_remedy() -> None:
    x, y = labelled_rows(ROWS)
    data = hvd.shard((x, y), BATCH)
    model = compiled(classifier(0), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    together = r"hvd\.shard\(\(x, y\), batch_size=32\)"
    cases: list[tuple[str, Callable[[], Any]]] = [
        (together, lambda: hvd.shard(x, y, 32)),
        (together, lambda: hvd.shard(x, y)),
        (together, lambda: hvd.shard(list(x), list(y))),
        ("from_generator", lambda: hvd.shard((row for row in x), BATCH)),
        ("from_generator", lambda: hvd.shard(lambda: iter(x), BATCH)),
        ("DistributedSampler", lambda: hvd.shard(DataLoader(), BATCH)),
        ("from hvd.shard already", lambda: hvd.shard(data, BATCH)),
        (together, lambda: model.fit(data, y)),
        ("batch_size to hvd.shard", lambda: model.fit(data, batch_size=4)),
        ("split the arrays before", lambda: model.fit(data, validation_split=0.1)),
        (together, lambda: model.fit(data, validation_data=(data, y))),
        (together, lambda: model.fit((data, data))),
        (together, lambda: model.fit(x, data)),
        (together, lambda: model.evaluate(data, y)),
        (together, lambda: model.evaluate((data, y))),
    ]
    for part, call in cases:
        with pytest.raises((ValueError, TypeError), match=part) as raised:
            call()
        assert len(str(raised.value)) < LONGEST, raised.value


@long
def check_the_end_of_sharded_data_is_no_warning() -> None:
    x, y = labelled_rows(ROWS)
    data = hvd.shard((x, y), BATCH)
    model = compiled(classifier(0), hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    with warnings.catch_warnings(record=True) as warned, _said() as texts:
        warnings.simplefilter("always")
        model.predict(data, verbose=0)
        assert not [w for w in warned if "ran out of data" in str(w.message)]
        model.fit(data, steps_per_epoch=len(data) + 5, verbose=0)
    assert len(texts) == (hvd.rank() == 0)
    assert all("Leave steps_per_epoch out" in text for text in texts)
