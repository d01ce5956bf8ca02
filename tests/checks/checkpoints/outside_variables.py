"""Vocabularies, bins, constants, the state of layers of one's own, and old checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from checks.agreement.outside_variables import (
    FromFile,
    Offset,
    outputs,
    rows,
    tabular,
    words_model,
)
from checks.agreement.own_weights import OwnLast
from checks.checkpoints.runs import shared_folder
from checks.marks import long

import hvdkit as hvd
from hvdkit.checkpoint.arrays import Contents, parse
from hvdkit.checkpoint.files import digest_of, write_atomically
from hvdkit.checkpoint.layers import add_layers, joined, other_layers
from hvdkit.checkpoint.reshard import reshard
from hvdkit.checkpoint.store import MANIFEST, _checksum

Backup = hvd.callbacks.BackupAndRestore
START = hvd.callbacks.BroadcastGlobalVariablesCallback


def _fit(model: keras.Model, folder: Path, *callbacks: Any, epochs: int = 1) -> None:
    x = {name: rows(3)[name] for name in model.input}
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros((16, 1), "float32"))).batch(8)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[*callbacks, Backup(folder)])


@long
def check_restored_layers_compute_as_before() -> None:
    """A run that only restores has adapted nothing to the rows of the first one."""
    folder, first = shared_folder(), tabular(1)
    _fit(first, folder)
    second = tabular(2)
    before = outputs(second)  # its functions are traced
    _fit(second, folder, START(0), epochs=1)
    np.testing.assert_allclose(outputs(second), outputs(first), rtol=1e-6)
    assert not np.allclose(before, outputs(second))
    hvd.checkpoint.restore(folder, third := tabular(2), third.optimizer)
    np.testing.assert_allclose(outputs(third), outputs(first), rtol=1e-6)


def _rewrite(checkpoint: Path, change: Any) -> None:
    """Change the contents of a checkpoint's files, and what its manifest says of them."""
    written = json.loads((checkpoint / MANIFEST).read_bytes())
    for name in written["checkpoint"]["files"]:
        contents = parse((checkpoint / name).read_bytes(), name)
        change(contents)
        write_atomically(checkpoint / name, contents.buffers())
        written["checkpoint"]["files"][name] = digest_of(checkpoint / name).as_json()
    written["sha256"] = _checksum(written["checkpoint"])
    (checkpoint / MANIFEST).write_text(json.dumps(written))


def _as_of_old(contents: Contents) -> None:
    """Without what checkpoints did not hold at first."""
    for name in ("built_with", "layers", "kept_by_rank"):
        contents.values.pop(name, None)
    for name in [name for name in contents.arrays if name.startswith("layers/")]:
        del contents.arrays[name]


@long
def check_an_old_checkpoint_is_still_read() -> None:
    folder, first = shared_folder(), tabular(1)
    first.layers[-1].bias.assign([7.0])
    _fit(first, folder)
    hvd.barrier()
    if hvd.rank() == 0:
        _rewrite(max(folder.glob("checkpoint-*")), _as_of_old)
    hvd.barrier()
    second = tabular(1)
    _fit(second, folder)
    np.testing.assert_allclose(outputs(second), outputs(first), rtol=1e-6)
    assert float(second.layers[-1].bias[0]) == 7.0


def check_other_layers_are_refused() -> None:
    folder = shared_folder()
    hvd.checkpoint.save(folder, words_model([], salt=1))
    with pytest.raises(hvd.checkpoint.CheckpointError, match="this model StringLookup"):
        hvd.checkpoint.restore(folder, words_model(["a", "b"]))


def check_layers_that_are_found_by_name_are_not_left_out() -> None:
    """As for another mesh, where Keras has numbered the layers of some ranks otherwise."""

    def lookup(name: str, *words: str) -> keras.layers.Layer:
        return keras.layers.StringLookup(vocabulary=[*words] or None, name=name)

    def kept(*layers: keras.layers.Layer) -> Contents:
        contents = Contents()
        add_layers(contents, layers)
        return contents

    def problem(*layers: keras.layers.Layer) -> str | None:
        return other_layers(both, layers, by_name=True)

    first, second = lookup("words", "a"), lookup("words_1", "b")
    both = joined([kept(first), kept(first, second)])
    assert [layer["name"] for layer in both.values["layers"]] == ["words", "words_1"]
    assert problem(lookup("words_1", "c")) is None, "it is found"
    assert problem(first, lookup("words_2", "b")) is None, "it has what is stored"
    assert problem(first, keras.layers.Discretization([0.0], name="bins")) is None
    assert "nothing of words_2," in str(problem(first, lookup("words_2", "c")))
    assert "nothing of words_2," in str(problem(first, lookup("words_2")))
    of_old = joined([Contents(), Contents()])
    assert other_layers(of_old, [lookup("words_2", "c")], by_name=True) is None


def check_files_that_would_be_written_elsewhere_are_refused() -> None:
    """Who makes a checkpoint must not choose which files of its reader are written."""
    target = shared_folder() / "target.txt"

    def model(text: str) -> keras.Model:
        keras.utils.set_random_seed(0)
        layer = FromFile()
        layer.text = text
        return keras.Sequential([keras.Input((1,)), layer, keras.layers.Dense(1)])

    for name in (str(target), f"a/../../../../../../../..{target}", ".."):
        folder, second = shared_folder(), model("abcd")

        def renamed(contents: Contents, name: str = name) -> None:
            for old in [old for old in contents.arrays if "/files/" in old]:
                contents.arrays[f"layers/0/files/{name}"] = contents.arrays.pop(old)

        hvd.checkpoint.save(folder, model("abc"))
        hvd.barrier()
        if hvd.rank() == 0:
            _rewrite(max(folder.glob("checkpoint-*")), renamed)
        hvd.barrier()
        with pytest.raises(hvd.checkpoint.CheckpointError, match="outside of its folder"):
            hvd.checkpoint.restore(folder, second)
        assert second.layers[0].text == "abcd"
    assert not target.exists()


def check_own_weights_come_back_by_rank() -> None:
    folder, kept = shared_folder(), OwnLast()

    def model(layer: keras.layers.Layer) -> keras.Model:
        keras.utils.set_random_seed(0)
        sequential = keras.Sequential([keras.layers.Input((6,)), layer, keras.layers.Dense(1)])
        sequential.compile(hvd.DistributedOptimizer("sgd"), "mse")
        return sequential

    hvd.checkpoint.save(folder, first := model(kept))
    for number, variable in enumerate((kept.last, kept.mean)):
        variable.assign([10.0 * number + hvd.rank()])
    hvd.checkpoint.save(folder, first)
    again = OwnLast()
    hvd.checkpoint.restore(folder, model(again))
    for folder_of_layer, over_ranks in ((shared_folder(), "own"), (shared_folder(), None)):
        offset, other = Offset(), Offset()
        offset.hvd_over_ranks = other.hvd_over_ranks = over_ranks
        offset.offset = 1.0 + hvd.rank()
        hvd.checkpoint.save(folder_of_layer, model(offset))
        hvd.checkpoint.restore(folder_of_layer, model(other))
        assert other.offset == (1.0 + hvd.rank() if over_ranks else 1.0)
    assert float(again.last[0]) == hvd.rank()
    newest = max(folder.glob("checkpoint-*"))

    def read(rank: int) -> Contents:
        return parse((newest / f"rank-{rank}.bin").read_bytes(), "")

    for rank in range(5):  # on more ranks
        arrays = reshard(rank, hvd.size(), read).arrays
        assert arrays["state/0"].item() == rank % hvd.size()
        np.testing.assert_allclose(arrays["state/1"].item(), 10 + (hvd.size() - 1) / 2)


def check_states_of_recurrent_layers_come_back_by_rank() -> None:
    folder = shared_folder()

    def model() -> keras.Model:
        keras.utils.set_random_seed(0)
        lstm = keras.layers.LSTM(3, stateful=True)
        return keras.Sequential([keras.layers.Input((3, 2), batch_size=4), lstm])

    first = model()
    first(np.full((4, 3, 2), hvd.rank(), "float32"))
    hvd.checkpoint.save(folder, first)
    second = model()
    hvd.checkpoint.restore(folder, second)
    for mine, theirs in zip(first.layers[0].states, second.layers[0].states, strict=True):
        np.testing.assert_array_equal(mine, theirs)
