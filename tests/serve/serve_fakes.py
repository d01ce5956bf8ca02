"""A server whose models are fakes: python serve_fakes.py PORT FOLDER [JSON of settings]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hvdkit.serving.server import run
from hvdkit.serving.settings import Batching, Limits, Running, Settings


def settings(folder: str, asked: dict) -> Settings:
    """Settings, of which some rooms may be named."""
    asked["limits"] = Limits(**asked.get("limits", {}))
    asked["batching"] = Batching(**asked.get("batching", {}))
    asked["running"] = Running(**{"watch": 0.1, **asked.get("running", {})})
    for name in ("certificate", "key"):
        asked[name] = Path(asked[name]) if name in asked else None
    asked["tokens"] = tuple(asked.get("tokens", ()))
    return Settings(Path(folder), port=0, **asked)


if __name__ == "__main__":
    command = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
    run(settings(sys.argv[1], json.loads(sys.argv[2])), command)
