"""GET /web/…: static files of the page, which the widget of other sites loads too; who gets the page."""

from __future__ import annotations

import json
import re
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.web.page import PAGE, limits_of
from serve_app.ingress.web.static_files import IMMUTABLE, REVALIDATED, StaticFile, read_static_files
from serve_app.settings import Settings

# The widget's modules are loaded by pages of other sites; the files contain nothing secret.
FILE_HEADERS: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
_DIGEST: Final = re.compile(r"[0-9a-f]{16}/")


def web_routes(settings: Settings) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    limits = StaticFile.of(json.dumps(limits_of(settings)).encode(), "application/json")

    @router.get("/web/limits.json")
    async def service_limits(request: Request) -> Response:
        """The limits that the widget checks before it sends a question; the page has them in its HTML."""
        return limits.response(request, REVALIDATED, FILE_HEADERS)

    @router.get("/web/{path:path}")
    async def static_file(path: str, request: Request) -> Response:
        """A file by its name, or by the digest of all files and its name: the latter never changes."""
        static = read_static_files()
        name = _DIGEST.sub("", path, count=1) if _DIGEST.match(path) else path
        file = static.files.get(name)
        if file is None or name == PAGE:
            raise HTTPException(404)
        is_current = path == f"{static.digest}/{name}"
        return file.response(request, IMMUTABLE if is_current else REVALIDATED, FILE_HEADERS)

    return router


def prefers_html(request: Request) -> bool:
    """Whether the client is a browser that navigates; programs send `*/*` or name JSON."""
    return "text/html" in request.headers.get("accept", "")
