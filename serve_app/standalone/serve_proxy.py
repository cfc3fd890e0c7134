"""Closes Ray Serve's own HTTP proxy: `glm-serve up` does not use it, and it has none of our limits.

The proxy can't be left out: without a proxy Serve 2.60 turns off direct ingress too. Serve calls `middlewares` in every
process that starts an HTTP server (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH).
"""

from __future__ import annotations

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def middlewares() -> list[Middleware]:
    """None in the ingress replica; in Serve's proxy one that serves nothing."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return [Middleware(ClosedProxy)]
    return []


class ClosedProxy:
    """ASGI middleware that responds with 404 to every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("This port serves nothing.\n", 404)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
