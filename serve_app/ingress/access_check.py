"""Access check: finds the caller of a request and checks its scopes, before the body is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from serve_app.access.identity import Identity
from serve_app.caller import Caller, Scope
from serve_app.errors import Forbidden
from serve_app.ingress.request_log import request_log_of

HEALTH: Final = frozenset({"/healthz", "/readyz", "/health"})
INDEX: Final = "/"
STATIC_FILES: Final = "/web/"  # of the page; they contain nothing of callers
DOCS: Final = frozenset({"/docs", "/openapi.json"})
SCOPES: Final[dict[str, tuple[Scope, ...]]] = {  # one of them is needed; of all other paths: inference
    "/metrics": ("metrics",),
    "/v1/chat/completions": ("inference", "chat"),
    "/v1/widget/tokens": ("widget",),
}


class AccessCheck:
    """ASGI middleware: refuses requests without valid credentials (401) or the scope of the route (403).

    Every path needs a caller, also one that does not exist, except health, the index and the page's static files;
    these need one too if the request has a body, since it would be read.
    """

    def __init__(self, app: ASGIApp, *, identity: Identity, public_docs: bool) -> None:
        self._app = app
        self._identity = identity
        self._public = HEALTH | {INDEX} | (DOCS if public_docs else frozenset())

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = _headers(scope)
            if not self._is_public(scope["path"]) or _has_body(headers):
                client = scope.get("client")
                caller = await self._identity.identify(headers, client[0] if client else None)
                request_log_of(scope).caller = caller
                check_scope(caller, SCOPES.get(scope["path"], ("inference",)))
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public or path.startswith(STATIC_FILES)


def _has_body(headers: Mapping[str, str]) -> bool:
    """Whether a body follows (RFC 9112, section 6); its first byte may not be here yet."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


def _headers(scope: AsgiScope) -> dict[str, str]:
    """By name; repeated ones are joined by a line break, which is in no valid credential or name.

    A proxy and this service could otherwise read different ones of two headers.
    """
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("utf-8", "surrogateescape")
        headers[key] = f"{headers[key]}\n{text}" if key in headers else text
    return headers


def check_scope(caller: Caller, needed: tuple[Scope, ...]) -> None:
    """Raises Forbidden if the caller's credentials have none of the scopes."""
    if caller.scopes.isdisjoint(needed):
        had = ", ".join(sorted(caller.scopes)) or "no scope"
        raise Forbidden(f"This route needs the scope '{needed[0]}'; the credentials have {had}.")
