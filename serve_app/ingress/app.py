"""The HTTP app: a FastAPI app of routes and middleware, without Ray."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware import Middleware

from serve_app import __version__, demo
from serve_app.access.check_settings import accepts_anonymous
from serve_app.access.usage import UsageRecorder, usage_recorder
from serve_app.access.widget_tokens import widget_tokens
from serve_app.answers import Clock
from serve_app.audit.request_audit import AuditLog
from serve_app.cache.feedback import Feedback
from serve_app.callbacks import RespondToCallback
from serve_app.contracts import Answer
from serve_app.fingerprint import system_fingerprint
from serve_app.ingress.access_check import HEALTH
from serve_app.ingress.ask.routes import ask_routes
from serve_app.ingress.chat.routes import chat_routes
from serve_app.ingress.completions.routes import completion_routes
from serve_app.ingress.context import GiveFeedback, ServingContext, model_names
from serve_app.ingress.docs_page import docs_routes
from serve_app.ingress.errors import HANDLERS, UnhandledErrorMiddleware
from serve_app.ingress.feedback.routes import feedback_routes
from serve_app.ingress.messages.routes import messages_routes
from serve_app.ingress.openapi import complete_openapi
from serve_app.ingress.outer_middlewares import UnlessWrapped, outer_middlewares
from serve_app.ingress.request_line import HeadAsGet
from serve_app.ingress.responses.routes import response_routes
from serve_app.ingress.status.routes import READY_WITHIN_S, Describe, MetricsPage, status_routes
from serve_app.ingress.tokenize.routes import tokenize_routes
from serve_app.ingress.usage.routes import usage_routes
from serve_app.ingress.web.page import Page, files_address
from serve_app.ingress.web.routes import web_routes
from serve_app.ingress.widget.routes import widget_routes
from serve_app.metrics import Meter
from serve_app.replies import Tokenize
from serve_app.settings import Settings

TITLE = "GLM Vision Serve"
DESCRIPTION = "Questions about pictures, answered by GLM vision models. Works with OpenAI's clients."


def new_uuid() -> str:
    return uuid.uuid4().hex


async def _no_cache(feedback: Feedback) -> int:
    return 0


async def _no_metrics() -> bytes:
    return b""


def create_app(
    settings: Settings,
    answer: Answer,
    describe: Describe,
    tokenize: Tokenize,
    meter: Meter,
    *,
    metrics_page: MetricsPage = _no_metrics,
    clock: Clock = time.monotonic,
    now: Callable[[], float] = time.time,
    new_id: Callable[[], str] = new_uuid,
    host: str | None = None,  # the address that is listened on; None: that of the settings
    ready_within_s: float = READY_WITHIN_S,
    usage: UsageRecorder | None = None,
    audit: AuditLog | None = None,
    feedback: GiveFeedback = _no_cache,
    respond_to_callback: RespondToCallback | None = None,  # None: the bots are off
) -> FastAPI:
    app = FastAPI(
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page loads scripts from a CDN; ours is rendered from the document
        redoc_url=None,
        exception_handlers=HANDLERS,
    )
    context = ServingContext(
        answer,
        tokenize,
        feedback,
        served=settings.model.served_name,
        names=model_names(settings.model),
        fingerprint=system_fingerprint(settings.model),
        deadline_s=settings.http.request_timeout_s,
        max_choices=settings.http.max_choices,
        default_max_tokens=settings.preprocess.default_max_tokens,
        ignore_unknown=settings.http.unknown_fields == "ignore",
        keep_alive_s=settings.http.keep_alive_s,
        recent_items_bytes=settings.http.recent_items_bytes,
        now=now,
        new_id=new_id,
    )
    answering = (chat_routes, response_routes, messages_routes, completion_routes, ask_routes)
    for routes in (*answering, feedback_routes, tokenize_routes):
        app.include_router(routes(context))
    app.include_router(
        status_routes(
            context,
            describe,
            metrics_page,
            name=TITLE,
            version=__version__,
            created=int(now()),
            description=demo.DESCRIPTION if settings.model.is_demo else "",
            ready_within_s=ready_within_s,
            page=Page(settings) if settings.http.web_page else None,
        )
    )
    tokens = widget_tokens(settings.access.widget_secret_file, now)
    app.include_router(widget_routes(context, tokens, settings.http.allowed_origins))
    if settings.http.web_page:
        app.include_router(web_routes(settings))
    usage = usage or usage_recorder(settings.limits, meter, now)
    app.include_router(usage_routes(usage))
    app.include_router(docs_routes(lambda: app.openapi(), files_address() if settings.http.web_page else None))
    host = host or settings.http.host
    complete_openapi(
        app,
        served=settings.model.served_name,
        max_choices=settings.http.max_choices,
        public_paths=HEALTH,
        anonymous=accepts_anonymous(settings, host),
    )
    outer = outer_middlewares(
        settings,
        meter,
        route_paths(app),
        host=host,
        clock=clock,
        new_id=new_id,
        usage=usage,
        audit=audit,
        now=now,
        respond_to_callback=respond_to_callback,
    )
    app.user_middleware = [
        Middleware(UnlessWrapped, middlewares=outer),
        # In here too: Starlette's own handler, between the outer middlewares and this one, responds with plain text.
        Middleware(UnhandledErrorMiddleware),
        Middleware(HeadAsGet),
    ]
    return app


def route_paths(app: FastAPI) -> frozenset[str]:
    """The documented paths without parameters."""
    return frozenset(path for path in app.openapi()["paths"] if "{" not in path)
