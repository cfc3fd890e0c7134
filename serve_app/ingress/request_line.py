"""ASGI middlewares for methods and paths: HEAD as GET, extra slashes, and paths with control characters."""

from __future__ import annotations

import re
from typing import AnyStr, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import truncate

CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class ExtraSlashes:
    """Routes `/v1/models/` and `//v1/models` as `/v1/models`; with a redirect some clients would lose the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = without_extra_slashes(scope["path"], "/")
            if raw_path := scope.get("raw_path"):
                scope["raw_path"] = without_extra_slashes(raw_path, b"/")
        await self._app(scope, receive, send)


def without_extra_slashes(path: AnyStr, slash: AnyStr) -> AnyStr:
    return slash + slash.join(part for part in path.split(slash) if part)


class PathFilter:
    """ASGI middleware: refuses paths with control characters.

    Starlette's router ignores a line break at the end of a path, so `/metrics%0A` is another path for the access check
    and the same route as `/metrics`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CONTROL_CHARACTERS.search(scope["path"]):
            raise InvalidRequest(f"The path {truncate(scope['path'])!r} has control characters. Remove them.")
        await self._app(scope, receive, send)


class HeadAsGet:
    """Responds to HEAD with the headers of GET (RFC 9110, section 9.3.2); servers send no body with them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
