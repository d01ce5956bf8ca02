"""What the tests of the command line share: fake installations and runs of the command."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BUILD_INFO = 'import collections\nbuild_info = collections.OrderedDict([("cuda_version", "{}")])\n'


def fake_distribution(site: Path, name: str, version: str, record: str = "") -> Path:
    """Write the metadata of a distribution into a folder that stands for site-packages."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text(record)
    return folder


def fake_tensorflow(
    site: Path, name: str = "tensorflow-cpu", version: str = "2.21.0", build: str = "abc"
) -> None:
    """Write what is looked at of a TensorFlow: metadata, hash of the library, header folder."""
    library = f"tensorflow/libtensorflow_framework.so.2,sha256={build},123\n"
    fake_distribution(site, name, version, library)
    (site / "tensorflow" / "include").mkdir(parents=True, exist_ok=True)


def program(folder: Path, name: str, script: str) -> Path:
    """Write an executable shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def hvdkit(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with `env` added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "hvdkit_cli.main", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )
