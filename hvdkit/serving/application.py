"""The addresses of the Open Inference Protocol, version 2, and /metrics.

Source: https://github.com/kserve/open-inference-protocol, inference_rest.md.
"""

from __future__ import annotations

import sys
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from hvdkit.serving.access import Access
from hvdkit.serving.connections import ClosesUnread
from hvdkit.serving.datatypes import described
from hvdkit.serving.figures import CONTENT_TYPE, Figures
from hvdkit.serving.inference import Inference, refusal
from hvdkit.serving.logs import Log
from hvdkit.serving.models import Models
from hvdkit.serving.problems import Problem
from hvdkit.serving.responses import Json
from hvdkit.serving.settings import Settings

EXTENSIONS = ["binary_tensor_data"]


def application(models: Models, settings: Settings, figures: Figures, log: Log) -> ASGIApp:
    """The web application of a server.

    Args:
        models: that serve.
        settings: of the server.
        figures: that /metrics shows.
        log: for the requests.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    version = str(sys.modules["hvdkit"].__version__)
    inference = Inference(models, settings, figures, log)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _no_such_address)
    _health(app, models)
    _models(app, models)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "hvdkit", "version": version, "extensions": EXTENSIONS}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(figures.page(), headers={"Content-Type": CONTENT_TYPE})

    @app.post("/v2/models/{model}/infer")
    @app.post("/v2/models/{model}/versions/{version}/infer")
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        return await inference.answer(request, model, version)

    return ClosesUnread(Access(app, settings.tokens, figures))


def _health(app: FastAPI, models: Models) -> None:
    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> Json:
        return Json({"ready": models.ready}, 200 if models.ready else 503)


def _models(app: FastAPI, models: Models) -> None:
    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def model_ready(model: str, version: str | None = None) -> Json:
        state: dict[str, Any] = {"name": model, "ready": False, "failed": models.failed(model)}
        try:
            found = models.get(model, version)
        except Problem as problem:
            if problem.status != 503:
                raise
            return Json(state, 503)
        state |= {"ready": found.ready, "version": str(found.number)}
        return Json(state, 200 if found.ready else 503)

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/{version}")
    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        found = models.get(model, version)
        return {
            "name": model,
            "versions": [str(found.number)],
            "platform": found.found.platform,
            "inputs": [described(spec) for spec in found.inputs],
            "outputs": [described(spec) for spec in found.outputs],
        }


async def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return refusal(problem)


async def _no_such_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": str(error.detail)}, error.status_code, error.headers)
