"""Checks the headers Host, Origin and X-Request-ID; removes those that only Ray Serve would act on.

Ray Serve reads some headers of every request (time-outs, its own request id, sessions, models) and fails with a 500 on
values that are not UTF-8. No client needs them, so they are removed. A `Host` that is not one of this
service's names is refused: a web page whose DNS name was pointed at a loopback address (DNS rebinding) sends its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import Forbidden, InvalidRequest
from serve_app.ingress.validation import truncate

REQUEST_ID: Final = b"x-request-id"
MAX_ID_LENGTH: Final = 128
# What Ray Serve 2.60 acts on (ray.serve._private: http_util.py, replica.py); it takes - for _ in some of them.
RAY_SERVE_HEADERS: Final = frozenset(
    {
        b"x_request_timeout_seconds",
        b"x_request_disconnect_disabled",
        b"serve_multiplexed_model_id",
        b"x_session_id",
    }
)
DECODED: Final = frozenset({b"traceparent", b"tracestate"})  # Serve decodes these, and fails if it can't
# Names that mean this machine, in any deployment.
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
LOOPBACK_ADDRESSES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
ANY: Final = "*"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})


class HeaderFilter:
    """ASGI middleware: refuses foreign hosts, removes headers that only Ray Serve would read."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str]) -> None:
        self._app = app
        self._allowed = None if ANY in allowed_hosts else {*LOOPBACK_NAMES, *map(str.lower, allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if self._allowed is not None:
            self._check_host(headers)
        scope["headers"] = [(name, value) for name, value in headers if _is_kept(name, value)]
        await self._app(scope, receive, send)

    def _check_host(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        host = next((value for name, value in headers if name == b"host"), None)
        if host is None:  # HTTP/1.0; a browser always sends one
            return
        name = _without_port(host.decode("latin-1").lower())
        if self._allowed is not None and name not in self._allowed:
            raise InvalidRequest(
                f"The Host header is {truncate(name)!r}, which is not a name of this service."
                " Add it to the setting http.allowed_hosts if it is.",
                "host",
            )


class OriginFilter:
    """ASGI middleware: refuses requests that a page of another origin makes without being allowed to.

    CORS keeps such a page from reading responses, not from sending requests: a form, or `fetch` with a plain content
    type, needs no preflight.
    """

    def __init__(self, app: ASGIApp, *, allowed_origins: Sequence[str]) -> None:
        self._app = app
        self._allowed = frozenset(origin.lower() for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and ANY not in self._allowed:
            self._check(Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        origin = headers.get("origin", "").lower()
        site = headers.get("sec-fetch-site")  # set by the browser itself, also behind a proxy that rewrites Host
        foreign = site in FOREIGN_SITES if site else _netloc(origin) != headers.get("host", "").lower()
        if origin and foreign and origin not in self._allowed:
            raise Forbidden(
                f"Pages of {truncate(origin)!r} may not use this service."
                " Add the origin to the setting http.allowed_origins if they should."
            )


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as `http://[`
        return None


def request_id_header(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's own id if headers and logs can hold it: 1 to 128 visible ASCII characters."""
    for name, value in headers:
        if name == REQUEST_ID:
            valid = 0 < len(value) <= MAX_ID_LENGTH and all(0x21 <= byte <= 0x7E for byte in value)
            return value.decode("ascii") if valid else None
    return None


def allowed_hosts(host: str, names: Sequence[str]) -> Sequence[str]:
    """The setting `http.allowed_hosts` with its default: any name where other machines can connect."""
    return names or (() if host in LOOPBACK_ADDRESSES else (ANY,))


def _is_kept(name: bytes, value: bytes) -> bool:
    if name in DECODED:
        return value.isascii()
    return name.isascii() and name.replace(b"-", b"_") not in RAY_SERVE_HEADERS


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
