"""The request log: a request's id, one log record of it, and its metrics.

It holds ids, counts, codes and times only, never text or pictures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.answers import Answers, Clock
from serve_app.contracts import Delta, Event, Finished, ToolCallDelta
from serve_app.metrics import (
    CANCELLATIONS,
    FIRST_TOKEN_SECONDS,
    OUTPUT_TOKEN_SECONDS,
    REJECTIONS,
    REQUEST_SECONDS,
    REQUESTS,
    Meter,
)

CLIENT_CLOSED_REQUEST = 499  # nginx's and Ray Serve's status for "the client closed the connection"
MAX_ID_LENGTH = 128
UNMATCHED = "unmatched"
DOCUMENT = "/openapi.json"  # FastAPI answers it without naming a route
POLLED = frozenset({"/healthz", "/readyz", "/metrics"})  # requested every few seconds: successes are logged as DEBUG

_log = logging.getLogger("glm.access")
_KEY = "glm.request_log"


@dataclass(slots=True, eq=False)
class RequestLog:
    """What is logged and measured of one HTTP request; observes its answers."""

    request_id: str
    clock: Clock
    meter: Meter
    received_at: float
    status: int | None = None
    code: str | None = None  # of the error in the response
    answer_id: str | None = None  # the response id
    disconnected: bool = False  # the client closed the connection before the end
    answers: Answers | None = None  # once there is an event
    first_text_at: float | None = None
    first_tokens: int = 0  # generated when the first text came

    def observe(self, answers: Answers, event: Event) -> None:
        self.answers = answers
        match event:
            case Delta() | ToolCallDelta() if self.first_text_at is None:
                self.first_text_at = self.clock()
                self.first_tokens = answers.tokens
                self.meter.observe(FIRST_TOKEN_SECONDS, self.first_text_at - self.received_at)
            case Finished():
                later_tokens = (event.usage.completion_tokens - self.first_tokens) / len(answers)
                if self.first_text_at is not None and later_tokens > 0:
                    self.meter.observe(OUTPUT_TOKEN_SECONDS, (self.clock() - self.first_text_at) / later_tokens)

    def close(self, method: str, route: str) -> None:
        """Write the log record and the metrics of the finished request."""
        answers, started = self.answers, self.answers.started if self.answers else None
        cancelled = self.disconnected and not (answers and answers.finished)  # closing after the end loses nothing
        status = CLIENT_CLOSED_REQUEST if cancelled or self.status is None else self.status
        total_s = self.clock() - self.received_at
        self.meter.count(REQUESTS, route=route, status=str(status))
        self.meter.observe(REQUEST_SECONDS, total_s, route=route)
        if self.code is not None and route not in POLLED:  # a probe's 503 is not a rejected request
            self.meter.count(REJECTIONS, code=self.code)
        if cancelled and self.answer_id is not None:
            self.meter.count(CANCELLATIONS)
        _log.log(
            logging.DEBUG if route in POLLED and status < 400 else logging.INFO,
            "%s %s %d in %.0f ms",
            method,
            route,
            status,
            total_s * 1000,
            extra={
                "request_id": self.request_id,
                "answer_id": self.answer_id,
                "method": method,
                "route": route,
                "status": status,
                "code": self.code,
                "prompt_tokens": started.prompt_tokens if started else None,
                "image_tokens": started.image_tokens if started else None,
                "completion_tokens": answers.usage.completion_tokens if answers else 0,
                "stages_ms": answers.stages_ms if answers else {},
                "total_ms": round(total_s * 1000, 3),
            },
        )


def request_log_of(scope: MutableMapping[str, Any]) -> RequestLog:
    request_log = scope[_KEY]
    assert isinstance(request_log, RequestLog)
    return request_log


class RequestLogMiddleware:
    """Gives each request its request log and id, and closes the log when the request is over."""

    def __init__(
        self, app: ASGIApp, *, meter: Meter, clock: Clock, new_id: Callable[[], str], echo_request_id: bool
    ) -> None:
        self._app = app
        self._meter = meter
        self._clock = clock
        self._new_id = new_id
        self._echo = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _id_header(scope["headers"]) or self._new_id()
        request_log = scope[_KEY] = RequestLog(request_id, self._clock, self._meter, self._clock())

        async def send_logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                request_log.status = message["status"]
                if self._echo:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_logged)
        except asyncio.CancelledError:  # how Ray Serve reports that the client closed the connection
            request_log.disconnected = True
            raise
        finally:
            request_log.close(scope["method"], _route(scope))


def _id_header(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's own X-Request-ID, if headers and logs can hold it."""
    for name, value in headers:
        if name == b"x-request-id":
            valid = 0 < len(value) <= MAX_ID_LENGTH and all(0x21 <= byte <= 0x7E for byte in value)
            return value.decode("ascii") if valid else None
    return None


def _route(scope: Scope) -> str:
    """The route's path template, never the request's path: a metric's label has a closed set of values."""
    return DOCUMENT if scope["path"] == DOCUMENT else str(getattr(scope.get("route"), "path", UNMATCHED))
