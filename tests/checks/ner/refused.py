"""Bad input: one error on rank 0, and the end of every rank, before anything is trained."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ner_inputs
import numpy as np
import pytest

import hvdkit as hvd
import ner

from . import files


@contextlib.contextmanager
def _folder(**options: Any) -> Iterator[Path]:
    """The files of a model, each rank's own: as on hosts that share no disk."""
    with TemporaryDirectory() as name:
        yield files.write(Path(name), **options)


def _arguments(folder: Path, *more: str) -> Any:
    text = str(folder / "sentences.conll")
    given = ["--weights", str(folder), "--train", text, "--dev", text]
    return ner.parse_arguments([*given, *more])


def _require_error(folder: Path, *parts: str, more: tuple[str, ...] = ()) -> None:
    """Every rank ends; rank 0 alone has said why, once, in one line."""
    args = _arguments(folder, *more)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        ner.on_every_rank(lambda: ner.build(args, ner_inputs.read(args)))
    assert end.value.code == 1
    text = said.getvalue()
    assert text.count("\n") == (hvd.rank() == 0), text
    if hvd.rank() == 0:
        assert text.startswith("error"), text
        for part in parts:
            assert part in text, (part, text)


def check_sentences() -> None:
    with _folder() as folder:
        file = folder / "sentences.conll"
        for text, *parts in (
            ("a\tO\nb\tO\tO\n", f"{file}, line 2 has 3 columns and not 2", "'b"),
            ("a\nb\n", "line 1 has 1 columns and not 2 or more"),
            ("a O\n\nb B\n", "line 3: 'B' is no label of IOB2"),
            ("\n\n", f"{file} has no sentences"),
            ("a O\n", "has no entities: every label is O"),
        ):
            file.write_text(text)
            _require_error(folder, *[part.replace(str(folder), "") for part in parts])


def check_files_of_one_rank() -> None:
    with _folder() as folder:
        if hvd.rank() == 1:
            (folder / "sentences.conll").unlink()
        _require_error(folder, "error (rank 1): ", "No such file")


def check_folders_and_names() -> None:
    with _folder() as folder:
        (folder / "tokenizer.json").unlink()
        _require_error(folder, "lacks tokenizer.json")
        _require_error(folder / "none", "is neither a folder nor a name on the hub")


def check_tokens_of_another_vocabulary() -> None:
    with _folder(config={**files.CONFIG, "vocab_size": len(files.PIECES) - 1}) as folder:
        _require_error(folder, f"has {len(files.PIECES)} tokens, and the encoder embeds", "another")
    with _folder(config={**files.CONFIG, "vocab_size": 500}) as folder:
        _require_error(folder, "and the encoder embeds 500")
    with _folder(pieces=[p for p in files.PIECES if p != "[SEP]"]) as folder:
        _require_error(folder, "has no [SEP]")


def check_configs() -> None:
    with _folder(config={**files.CONFIG, "model_type": "roberta"}) as folder:
        _require_error(folder, "model_type is 'roberta', and only 'bert' is known")
    with _folder(config={**files.CONFIG, "num_attention_heads": 3}) as folder:
        _require_error(folder, "3 heads do not divide a width of 8")
    with _folder() as folder:
        _require_error(folder, "it has to be from 3 to 16", more=("--length", "17"))


def check_weights() -> None:
    values = files.weights()
    other = dict(values)
    other["encoder.layer.0.output.dense.weight"] = np.zeros([8, 13], "float32")
    del other["encoder.layer.0.intermediate.dense.bias"]
    other["encoder.layer.1.output.dense.bias"] = np.zeros(8, "float32")
    with _folder(values=other) as folder:
        _require_error(
            folder,
            "encoder.layer.0.output.dense.weight is [8, 13] in the file and [8, 12] in the config",
            "encoder.layer.0.intermediate.dense.bias [12] is missing",
            "the encoder has no encoder.layer.1.output.dense.bias",
        )
    with _folder() as folder:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        _require_error(folder, "is damaged, or no safetensors file")


def check_labels_of_a_training_that_goes_on() -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(2):
            ner.require_same_labels(folder, ["O", "B-a"])
            hvd.barrier()
        (folder / "labels.json").write_text('["O", "B-a"]')
        with pytest.raises(ValueError, match=r"without \['B-a'\] of them now, and with \['B-b'\]"):
            ner.require_same_labels(folder, ["O", "B-b"])
