"""Models without their pruned neurons and heads give what they gave before."""

from __future__ import annotations

import keras
import numpy as np
from checks.checkpoints.runs import shared_folder
from checks.compress.models import equal_on_all_ranks, multilayer, sentences, tagger
from checks.marks import long
from checks.reference import data

import hvdkit as hvd
from hvdkit.compress import Cubic, Heads, Neurons, Pruning


@long
def check_heads_and_neurons_are_left_out() -> None:
    model = tagger(hvd.rank(), blocks=2, heads=4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), loss)
    start = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    schedule = Cubic(0.5, end=2, every=1)
    pruned = [Pruning(schedule, Neurons()), Pruning(Cubic(0.9, end=2), Heads(["mha"]))]
    next(one for one in model.layers if one.name.startswith("multi_head")).name = "mha"
    x, y, weights = sentences(40)
    rows = hvd.shard((x, y, weights), batch_size=4)
    model.fit(rows, verbose=0, callbacks=[start, *pruned])
    small = hvd.compress.shrink(model)
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)
    assert not small.compiled
    assert [one.name for one in small.layers] == [one.name for one in model.layers]
    sizes = [one.units for one in small.layers if isinstance(one, keras.layers.Dense)]
    heads = [one.num_heads for one in small.layers if hasattr(one, "num_heads")]
    assert (sizes, heads) == ([6, 8, 6, 8, 3], [1, 4])
    equal_on_all_ranks(small.get_weights())
    file = shared_folder() / f"small{hvd.rank()}.keras"
    small.save(file)
    np.testing.assert_allclose(keras.models.load_model(file)(x), small(x), atol=1e-6)


def check_neurons_with_normalization_between() -> None:
    x = data(16)[0]
    model = multilayer(0)
    model(x, training=True)  # statistics that are not those of the start
    for group in Neurons().find(model):
        kept = group.kept(0.75, np.ones(group.units, bool))
        for part in group.slices:
            part.variable.assign(part.variable * part.spread(kept))
    nested = keras.Sequential([keras.layers.Input((6,)), model, keras.layers.Rescaling(2.0)])
    small = hvd.compress.shrink(nested)
    np.testing.assert_allclose(small(x), nested(x), atol=1e-5)
    inner = small.get_layer(model.name)
    assert [one.units for one in inner.layers if hasattr(one, "units")] == [4, 3, 3]
    assert small.count_params() < model.count_params() / 2
