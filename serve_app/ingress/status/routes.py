"""Whether the service lives, is ready, what it serves, and its metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.contracts import ModelCard
from serve_app.errors import Overloaded
from serve_app.ingress.context import check_model
from serve_app.ingress.openapi import errors_documented
from serve_app.ingress.request_log import record_of
from serve_app.ingress.status.response import ModelList, ModelReply, StatusReply

Describe: TypeAlias = Callable[[], Awaitable[ModelCard]]
MetricsPage: TypeAlias = Callable[[], Awaitable[bytes]]

READY_WITHIN_S: Final = 2.0  # a replica that takes longer only to name its model is not ready
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger("glm.ingress")


def status_routes(
    describe: Describe, metrics_page: MetricsPage, *, name: str, version: str, created: int, ready_within_s: float
) -> APIRouter:
    router = APIRouter(tags=["status"])
    known: ModelCard | None = None  # one version of the service has one card; asking again could wake the engine

    async def ready_card(request: Request) -> ModelCard:
        nonlocal known
        try:
            async with asyncio.timeout(ready_within_s):
                known = await describe()
                return known
        except Exception as error:
            told = {"request_id": record_of(request.scope).request_id}
            _log.info("No replica of some stage described what it serves: %s", error.__class__.__name__, extra=told)
            raise Overloaded(
                f"Not every stage has a replica that answers within {ready_within_s:g} s; the model may still load."
            ) from error

    @router.get("/", summary="What this is", include_in_schema=False)
    async def hello() -> dict[str, str]:
        return {
            "service": name,
            "version": version,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "models": "/v1/models",
            "chat": "/v1/chat/completions",
            "responses": "/v1/responses",
            "completions": "/v1/completions",
            "tokenize": "/tokenize",
            "ask": "/v1/ask",
            "ready": "/readyz",
            "metrics": "/metrics",
        }

    @router.get("/healthz", summary="Alive: the door answers", responses=errors_documented())
    async def healthz() -> StatusReply:
        return {"status": "ok"}

    @router.get("/readyz", summary="Ready: a replica of every stage answers", responses=errors_documented(503))
    async def readyz(request: Request) -> StatusReply:
        """Asks a replica each time. Where the engine scales to zero this is a question like any other: it wakes the
        engine, and keeps it awake if it is polled. Poll `/healthz` there."""
        await ready_card(request)
        return {"status": "ok"}

    @router.get("/v1/models", summary="The served models", responses=errors_documented(503))
    async def list_models(request: Request) -> ModelList:
        return {"object": "list", "data": [_model(known or await ready_card(request), created)]}

    @router.get("/v1/models/{model:path}", summary="One served model", responses=errors_documented(404, 503))
    async def retrieve_model(model: str, request: Request) -> ModelReply:
        card = known or await ready_card(request)
        check_model(model, card.name)
        return _model(card, created)

    @router.get(
        "/metrics",
        summary="Prometheus metrics of this node",
        response_class=Response,
        responses=errors_documented(503, content={"text/plain": {"schema": {"type": "string"}}}),
    )
    async def metrics() -> Response:
        try:
            return Response(await metrics_page(), media_type=METRICS_TYPE)
        except Exception as error:
            _log.info("The node's metrics did not come: %s", error.__class__.__name__)
            raise Overloaded(
                "The node's metrics endpoint does not answer; it starts some seconds after the service."
            ) from error

    return router


def _model(card: ModelCard, created: int) -> ModelReply:
    return {
        "id": card.name,
        "object": "model",
        "created": created,
        "owned_by": "glm-vision-serve",
        "max_model_len": card.context_tokens,
        "context_length": card.context_tokens,
        "abilities": list(card.abilities),
        "family": card.family,
        "parameters": card.parameters,
        "quantization": card.quantization,
        "dtype": card.dtype,
        "device": card.device,
    }
