"""GET / for browsers: the page; GET /web/…: its static files, which the widget on other sites loads too."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.web.static_files import IMMUTABLE, REVALIDATED, StaticFile, read_static_files
from serve_app.settings import Settings

# No inline scripts or styles, no other origins. Trusted Types: no script may turn a text into HTML or code.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
PAGE_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept, Accept-Encoding",
}
# The widget's modules are loaded by pages of other sites; the files contain nothing secret.
FILE_HEADERS: Final = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
_DIGEST: Final = re.compile(r"[0-9a-f]{16}/")
_PAGE: Final = "page.html"


def web_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/web/{path:path}")
    async def static_file(path: str, request: Request) -> Response:
        """A file by its name, or by the digest of all files and its name: the latter never changes."""
        static = read_static_files()
        name = _DIGEST.sub("", path, count=1) if _DIGEST.match(path) else path
        file = static.files.get(name)
        if file is None or name == _PAGE:
            raise HTTPException(404)
        is_current = path == f"{static.digest}/{name}"
        return file.response(request, IMMUTABLE if is_current else REVALIDATED, FILE_HEADERS)

    return router


class Page:
    """The page of one service: its HTML with the addresses of the static files and the service's limits."""

    def __init__(self, settings: Settings) -> None:
        static, preprocess = read_static_files(), settings.preprocess
        values = {
            "FILES": files_address(),
            "MAX_IMAGES": preprocess.max_images,
            "MAX_IMAGE_BYTES": preprocess.max_image_bytes,
            "MAX_IMAGE_TOKENS": preprocess.max_image_tokens,
            "MAX_BODY_BYTES": settings.http.max_body_bytes,
        }
        html = static.files[_PAGE].content.decode()
        for name, value in values.items():
            html = html.replace(f"%{name}%", escape(str(value)))
        self._file = StaticFile.of(html.encode(), "text/html")

    def response(self, request: Request) -> Response:
        return self._file.response(request, REVALIDATED, PAGE_HEADERS)


def files_address() -> str:
    """The address of the static files, relative to the service's."""
    return f"web/{read_static_files().digest}"


def prefers_html(request: Request) -> bool:
    """Whether the client is a browser that navigates; programs send `*/*` or name JSON."""
    return "text/html" in request.headers.get("accept", "")
