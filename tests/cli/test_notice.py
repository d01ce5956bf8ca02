"""Horovod's own Keras module says once that it does not reduce with Keras 3."""

import base64
import hashlib
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
from support import fake_distribution

from hvdkit_cli.building import notice

pytestmark = pytest.mark.quick

SOURCE = '''hvd = None


def create_distributed_optimizer(keras, optimizer, op=0):
    """Make it."""
    return optimizer, op
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A Horovod in a folder that stands for site-packages; returns its file."""
    record = "horovod/__init__.py,,\nhorovod/_keras/__init__.py,sha256=old,1\nz.py,,\n"
    folder = fake_distribution(tmp_path, "horovod", "0.28.1", record)
    with (folder / "RECORD").open("a") as file:
        file.write(f"{folder.name}/RECORD,,\n")
    file = tmp_path / "horovod" / "_keras" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return file


def test_notice_is_added_once_and_recorded(installed, tmp_path):
    assert notice.add_notice()
    content = installed.read_bytes()
    assert content.startswith(SOURCE.encode())
    assert not notice.add_notice()
    assert installed.read_bytes() == content
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    lines = (tmp_path / "horovod-0.28.1.dist-info" / "RECORD").read_text().splitlines()
    assert f"horovod/_keras/__init__.py,sha256={digest},{len(content)}" in lines
    assert len(lines) == 4


def test_notice_without_horovod(monkeypatch):
    monkeypatch.setattr(notice, "distribution", lambda name: None)
    assert not notice.add_notice()


@pytest.mark.parametrize(
    ("version", "rank", "told"), [("3.15.1", 0, 1), ("3.15.1", 1, 0), ("2.15.0", 0, 0)]
)
def test_notice_is_given_once_on_rank_0(installed, monkeypatch, version, rank, told):
    notice.add_notice()
    keras = ModuleType("keras")
    keras.__version__ = version
    monkeypatch.setitem(sys.modules, "keras", keras)
    module = {}
    exec(installed.read_text(), module)
    module["hvd"] = SimpleNamespace(is_initialized=lambda: True, rank=lambda: rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert module["create_distributed_optimizer"](keras, "sgd", op=1) == ("sgd", 1)
    assert len(caught) == told
    assert all("`import hvdkit as hvd`" in str(warning.message) for warning in caught)
