"""ASGI middlewares for methods and paths as clients send them: HEAD as GET, and extra slashes."""

from __future__ import annotations

from typing import AnyStr

from starlette.types import ASGIApp, Receive, Scope, Send


class ExtraSlashes:
    """Routes `/v1/models/` and `//v1/models` as `/v1/models`; with a redirect some clients would lose the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = _without_extra(scope["path"], "/")
            if raw_path := scope.get("raw_path"):
                scope["raw_path"] = _without_extra(raw_path, b"/")
        await self._app(scope, receive, send)


def _without_extra(path: AnyStr, slash: AnyStr) -> AnyStr:
    return slash + slash.join(part for part in path.split(slash) if part)


class HeadAsGet:
    """Responds to HEAD with the headers of GET (RFC 9110, section 9.3.2); servers send no body with them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
