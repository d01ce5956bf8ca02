"""What was found, for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hvdkit_cli.scale.result import Result, Series
from hvdkit_cli.scale.words import sentences


def as_json(result: Result) -> str:
    """A JSON object; figures in seconds, bytes and joules, what is not known is null."""
    values = dict(vars(result))
    values["setting"] = asdict(result.setting)
    values["series"] = [_series(each) for each in result.series]
    values["sentences"] = sentences(result)
    return json.dumps(values, indent=1)


def _series(series: Series) -> dict[str, Any]:
    fit = series.fit
    law = None
    if fit is not None:
        law = {
            "name": fit.law.name,
            "serial": asdict(fit.serial),
            "twice": fit.twice,
            "expected": asdict(fit.expected),
            "check": None if fit.check is None else {**asdict(fit.check), "miss": fit.check.miss},
        }
    return {"kind": series.kind, "sizes": [asdict(size) for size in series.sizes], "law": law}
