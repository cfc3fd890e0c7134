"""Passes callbacks of chat platforms to the bots, which check their signatures.

They pass before authentication and limits. A callback is acknowledged within a second and answered later, so it is
neither counted as load nor audited here; the bots count and audit the question itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.callbacks import CALLBACK_PREFIX, MAX_CALLBACK_BYTES, Callback, RespondToCallback
from serve_app.errors import Overloaded
from serve_app.ingress.body_reader import BodyBudget, BodyLimits, BodyReader
from serve_app.ingress.request_log import CALLBACKS, request_log_of

METHODS: Final = ("GET", "POST")
LIMITS: Final = BodyLimits(
    max_bytes=MAX_CALLBACK_BYTES,
    timeout_s=5.0,
    grace_s=2.0,
    min_bytes_per_s=32 * 2**10,
    max_unfinished=256,
    max_bytes_in_flight=64 * 2**20,
)


@dataclass(frozen=True, slots=True)
class CallbackRoute:
    """The route of all callbacks, for log and metrics."""

    path: str = CALLBACKS


class BotCallbacks:
    """ASGI middleware: responds to paths below /bots/; others pass."""

    def __init__(self, app: ASGIApp, *, respond: RespondToCallback) -> None:
        self._app = app
        self._respond_to_callback = respond
        self._callbacks = BodyReader(self._respond, budget=BodyBudget(LIMITS))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_callback(scope):
            await self._app(scope, receive, send)
            return
        scope["route"] = CallbackRoute()
        request_log_of(scope).audit = None
        if scope["method"] in METHODS:
            await self._callbacks(scope, receive, send)
        else:
            await Response(status_code=405, headers={"Allow": ", ".join(METHODS)})(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        callback = Callback(
            scope["path"].removeprefix(CALLBACK_PREFIX),
            scope["method"],
            dict(request.query_params),
            dict(request.headers),
            await request.body(),
        )
        try:
            reply = await self._respond_to_callback(callback)
        except TimeoutError as error:
            raise Overloaded("The bots did not respond in time. The chat platform sends the callback again.") from error
        response = Response(reply.body, reply.status, media_type=reply.content_type)
        await response(scope, receive, send)


def is_callback(scope: Scope) -> bool:
    """Whether a request is a callback of a chat platform, by its path."""
    return bool(scope["type"] == "http" and scope["path"].startswith(CALLBACK_PREFIX))
