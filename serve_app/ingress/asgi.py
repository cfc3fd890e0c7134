"""The whole door on one screen: a plain FastAPI app made of plain functions, without Ray."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from pydantic import TypeAdapter

from serve_app import __version__
from serve_app.contracts import Answer
from serve_app.ingress.ask import AskUpload, ask_routes
from serve_app.ingress.body import BodyLimit
from serve_app.ingress.chat import chat_routes
from serve_app.ingress.problems import HANDLERS, Unforeseen
from serve_app.ingress.record import Clock, Recorded
from serve_app.ingress.replies import AskDelta, ChatCompletionChunk
from serve_app.ingress.schema import ChatBody
from serve_app.ingress.status import READY_WITHIN_S, Describe, MetricsPage, status_routes
from serve_app.metrics import Meter
from serve_app.settings import ModelSettings, Settings

TITLE = "GLM Vision Serve"
DESCRIPTION = "Questions about pictures, answered by GLM vision models. Works with OpenAI's clients."


def _new_id() -> str:
    return uuid.uuid4().hex


async def _no_metrics() -> bytes:
    return b""


def create_app(
    settings: Settings,
    answer: Answer,
    describe: Describe,
    meter: Meter,
    *,
    metrics_page: MetricsPage = _no_metrics,
    clock: Clock = time.monotonic,
    now: Callable[[], float] = time.time,
    new_id: Callable[[], str] = _new_id,
    echo_request_id: bool = True,  # off where the server in front does it: two such headers read "a, a"
    ready_within_s: float = READY_WITHIN_S,
) -> FastAPI:
    served, deadline_s = settings.model.served_name, settings.http.request_timeout_s
    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=[  # in the order that a request meets them
            Middleware(Recorded, meter=meter, clock=clock, new_id=new_id, echo_request_id=echo_request_id),
            Middleware(Unforeseen),
            Middleware(BodyLimit, max_bytes=settings.http.max_body_bytes),
        ],
        exception_handlers=HANDLERS,
    )
    fingerprint = system_fingerprint(settings.model)
    app.include_router(
        chat_routes(answer, served=served, fingerprint=fingerprint, deadline_s=deadline_s, now=now, new_id=new_id)
    )
    app.include_router(ask_routes(answer, served=served, deadline_s=deadline_s, new_id=new_id))
    app.include_router(
        status_routes(
            describe, metrics_page, name=TITLE, version=__version__, created=int(now()), ready_within_s=ready_within_s
        )
    )
    _document_own_bodies(app)
    return app


def system_fingerprint(model: ModelSettings) -> str:
    """Same fingerprint: same code, checkpoint, weight format and dtype."""
    identity = "\n".join((__version__, model.source, model.revision or "", model.quantization, model.dtype))
    return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _document_own_bodies(app: FastAPI) -> None:
    """Adds to the OpenAPI document what FastAPI can't see: bodies that routes read, and streams, by themselves."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = app.openapi_schema
        if document is None:
            document = generate()
            _, bodies = TypeAdapter.json_schemas(
                [
                    (ChatBody, "validation", TypeAdapter(ChatBody)),
                    (AskUpload, "validation", TypeAdapter(AskUpload)),
                    (ChatCompletionChunk, "serialization", TypeAdapter(ChatCompletionChunk)),
                    (AskDelta, "serialization", TypeAdapter(AskDelta)),
                ],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"].update(bodies["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
