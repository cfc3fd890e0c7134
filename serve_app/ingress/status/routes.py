"""GET routes: health, readiness, served models, metrics, the page or the list of routes at /."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.errors import Overloaded
from serve_app.ingress.context import ServingContext
from serve_app.ingress.openapi import error_responses
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.status.response import ModelList, ModelReply, StatusReply
from serve_app.ingress.web.page import Page
from serve_app.ingress.web.routes import prefers_html
from serve_app.replies import ModelCard

Describe: TypeAlias = Callable[[], Awaitable[ModelCard]]
MetricsPage: TypeAlias = Callable[[], Awaitable[bytes]]

READY_WITHIN_S: Final = 2.0  # a replica that takes longer to describe its model is not ready
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_log = logging.getLogger("glm.ingress")


def status_routes(
    context: ServingContext,
    describe: Describe,
    metrics_page: MetricsPage,
    *,
    name: str,
    version: str,
    created: int,
    description: str,
    ready_within_s: float,
    page: Page | None = None,
) -> APIRouter:
    router = APIRouter(tags=["status"])
    known: ModelCard | None = (
        None  # one version of the service has one card; another call could start an engine that is scaled to zero
    )

    async def ready_card(request: Request) -> ModelCard:
        nonlocal known
        try:
            async with asyncio.timeout(ready_within_s):
                known = await describe()
                return known
        except Exception as error:
            extra = {"request_id": request_log_of(request.scope).request_id}
            _log.info("A stage has no replica that described its model: %s", error.__class__.__name__, extra=extra)
            raise Overloaded(
                f"A stage has no replica that responds within {ready_within_s:g} s; the model may still be loading."
            ) from error

    @router.get("/", include_in_schema=False, response_model=None)
    async def index(request: Request, response: Response) -> Response | dict[str, Any]:
        """The page for browsers; for programs the service and its routes, from the OpenAPI document."""
        if page is not None and prefers_html(request):
            return page.response(request)
        if page is not None:
            response.headers["Vary"] = "Accept"
        paths = request.app.openapi()["paths"]
        routes = {
            f"{method.upper()} {path}": operation["summary"]
            for path, methods in paths.items()
            for method, operation in methods.items()
        }
        return {
            "service": name,
            "version": version,
            "docs": "/docs",
            "openapi": request.app.openapi_url,
            "routes": routes,
        }

    @router.get("/healthz", summary="Liveness: the HTTP app responds", responses=error_responses())
    async def healthz() -> StatusReply:
        return {"status": "ok"}

    @router.get("/health", summary="The same as /readyz, under vLLM's name", responses=error_responses(503))
    @router.get("/readyz", summary="Readiness: a replica of every stage responds", responses=error_responses(503))
    async def readyz(request: Request) -> StatusReply:
        """Calls a replica each time. Where the engine scales to zero, this call starts the engine like any other
        request, and keeps it running if it is polled. Poll `/healthz` there."""
        await ready_card(request)
        return {"status": "ok"}

    @router.get("/v1/models", summary="The served models", responses=error_responses(503))
    async def list_models(request: Request) -> ModelList:
        return {"object": "list", "data": [_model(known or await ready_card(request), created, description)]}

    @router.get("/v1/models/{model:path}", summary="One served model", responses=error_responses(404, 503))
    async def retrieve_model(model: str, request: Request) -> ModelReply:
        card = known or await ready_card(request)
        context.check_model(model)
        return _model(card, created, description)

    @router.get(
        "/metrics",
        summary="Prometheus metrics of this node",
        response_class=Response,
        responses=error_responses(503, content={"text/plain": {"schema": {"type": "string"}}}),
    )
    async def metrics() -> Response:
        try:
            return Response(await metrics_page(), media_type=METRICS_TYPE)
        except Exception as error:
            _log.info("The node's metrics could not be read: %s", error.__class__.__name__)
            raise Overloaded(
                "The node's metrics endpoint does not respond; it starts some seconds after the service."
            ) from error

    return router


def _model(card: ModelCard, created: int, description: str) -> ModelReply:
    return {
        "id": card.name,
        "object": "model",
        "created": created,
        "owned_by": "glm-vision-serve",
        "description": description,
        "max_model_len": card.context_tokens,
        "context_length": card.context_tokens,
        "abilities": list(card.abilities),
        "family": card.model_type,
        "parameters": card.parameters,
        "quantization": card.quantization,
        "dtype": card.dtype,
        "device": card.device,
    }
