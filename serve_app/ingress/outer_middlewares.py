"""The outer middlewares: what happens to a request before the application, and Ray Serve, see it.

Ray Serve counts a request as soon as its headers are there and reads some of them; an unfinished, refused or
malformed request must not get that far. `server.py` puts these middlewares around Ray Serve's own application.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.access.identity import Identity
from serve_app.access.jwt_tokens import jwt_verifier
from serve_app.access.rate_limits import WORDS, RateLimits
from serve_app.access.shared_counters import counters_of
from serve_app.access.usage import UsageRecorder, usage_recorder
from serve_app.answers import Clock
from serve_app.audit.request_audit import AuditLog
from serve_app.callbacks import RespondToCallback
from serve_app.ingress.access_check import AccessCheck
from serve_app.ingress.body_reader import BodyBudget, BodyLimits, BodyReader
from serve_app.ingress.bot_callbacks import BotCallbacks
from serve_app.ingress.cors import CorsMiddleware
from serve_app.ingress.error_language import ErrorLanguage
from serve_app.ingress.errors import UnhandledErrorMiddleware
from serve_app.ingress.header_filter import ANY, HeaderFilter, OriginFilter, allowed_hosts
from serve_app.ingress.http_protocol import ConnectionLimits
from serve_app.ingress.limit_check import LimitCheck
from serve_app.ingress.load_limit import LoadCheckMiddleware, LoadLimit, LoadLimitMiddleware, LoadLimits
from serve_app.ingress.request_line import ExtraSlashes, PathFilter
from serve_app.ingress.request_log import RequestLogMiddleware
from serve_app.metrics import Meter
from serve_app.settings import Settings
from serve_app.settings_http import HttpSettings

SERVE_ROUTES = frozenset({"/-/healthz", "/-/routes"})  # Ray Serve answers them itself
WRAPPED = "glm.wrapped"  # key in the scope of a request that passed them
EXPOSED_HEADERS = (
    *("x-request-id", "retry-after", "server-timing", "x-ignored-fields", "x-max-tokens", "x-cache"),
    *(f"x-ratelimit-{what}-{resource}" for what in ("limit", "remaining", "reset") for resource in WORDS),
)


def load_limits(settings: Settings) -> LoadLimits:
    """What one ingress replica accepts: the slots and queues of its share of the engine replicas."""
    engine, replicas = settings.engine, settings.replicas
    engines = -(-replicas.engine // max(1, replicas.ingress))
    return LoadLimits(
        max_wait_s=settings.http.max_wait_s,
        min_in_flight=engines * engine.max_slots,
        max_in_flight=max(engines * (engine.max_slots + engine.max_waiting), 1),
    )


def outer_middlewares(
    settings: Settings,
    meter: Meter,
    paths: Container[str],
    *,
    host: str,
    clock: Clock,
    new_id: Callable[[], str],
    usage: UsageRecorder | None = None,
    audit: AuditLog | None = None,
    now: Callable[[], float] = time.time,
    respond_to_callback: RespondToCallback | None = None,
) -> list[Middleware]:
    """Outermost first; `paths` are those of the application's routes, `host` is the address that is listened on."""
    http = settings.http
    load = LoadLimit(load_limits(settings), clock)
    tokens = jwt_verifier(settings.jwt, clock=clock, meter=meter)
    identity = Identity(settings, host=host, clock=clock, now=now, tokens=tokens)
    limits = RateLimits(
        counters_of(settings.limits, meter), identity.tenant_limits, max_request_s=http.request_timeout_s
    )
    cors = Middleware(
        CorsMiddleware,
        allow_origins=http.allowed_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        # Chrome asks for pages of the internet that use a service in an intranet: only for origins that are named.
        allow_private_network=ANY not in http.allowed_origins,
        expose_headers=EXPOSED_HEADERS,
    )
    callbacks = Middleware(BotCallbacks, respond=respond_to_callback) if respond_to_callback else None
    return [
        Middleware(ErrorLanguage),
        Middleware(ExtraSlashes),
        *([cors] if http.allowed_origins else ()),
        Middleware(LoadCheckMiddleware, load=load, meter=meter, paths=paths),
        Middleware(RequestLogMiddleware, meter=meter, paths=paths, clock=clock, new_id=new_id, audit=audit),
        Middleware(UnhandledErrorMiddleware),
        Middleware(PathFilter),
        Middleware(HeaderFilter, allowed_hosts=allowed_hosts(host, http.allowed_hosts)),
        Middleware(OriginFilter, allowed_origins=http.allowed_origins),
        *([callbacks] if callbacks else ()),
        Middleware(AccessCheck, identity=identity, public_docs=settings.access.public_docs),
        Middleware(LimitCheck, limits=limits, usage=usage or usage_recorder(settings.limits, meter, now)),
        Middleware(BodyReader, budget=BodyBudget(body_limits(http))),
        Middleware(LoadLimitMiddleware, load=load),
    ]


def wrap(app: ASGIApp, middlewares: list[Middleware]) -> ASGIApp:
    """Ray Serve's application with the middlewares around it; Serve's own routes, which probes poll, go past them."""
    outer = _apply(app, middlewares)

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in SERVE_ROUTES:
            await app(scope, receive, send)
        else:
            scope[WRAPPED] = True
            await outer(scope, receive, send)

    return respond


class UnlessWrapped:
    """ASGI middleware: applies the middlewares to requests that did not pass them around Ray Serve's application.

    Behind HAProxy, Serve's own proxy takes requests while no ingress replica is known to it; they reach the
    application by gRPC.
    """

    def __init__(self, app: ASGIApp, *, middlewares: list[Middleware]) -> None:
        self._app = app
        self._wrapped = _apply(app, middlewares)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._app if WRAPPED in scope else self._wrapped)(scope, receive, send)


def _apply(app: ASGIApp, middlewares: list[Middleware]) -> ASGIApp:
    for middleware in reversed(middlewares):
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    return app


def body_limits(http: HttpSettings) -> BodyLimits:
    return BodyLimits(
        max_bytes=http.max_body_bytes,
        timeout_s=http.body_timeout_s,
        grace_s=http.body_grace_s,
        min_bytes_per_s=http.min_body_bytes_per_s,
        max_unfinished=http.max_unfinished_bodies,
        max_bytes_in_flight=http.max_bytes_in_flight,
    )


def connection_limits(http: HttpSettings) -> ConnectionLimits:
    return ConnectionLimits(
        header_timeout_s=http.header_timeout_s,
        max_header_bytes=http.max_header_bytes,
        max_headers=http.max_headers,
        max_connections=http.max_connections,
        send_timeout_s=http.send_timeout_s,
    )
