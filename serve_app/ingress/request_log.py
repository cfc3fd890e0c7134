"""The request log: a request's id, one log record of it, and its metrics.

It holds ids, counts, codes and times only, never text or pictures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.answers import Answers, Clock
from serve_app.audit.request_audit import AuditLog, RequestAudit
from serve_app.callbacks import CALLBACK_PREFIX
from serve_app.caller import ANONYMOUS, Caller
from serve_app.contracts import Delta, Event, Finished, ToolCallDelta
from serve_app.ingress.header_filter import REQUEST_ID, request_id_header
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
UNMATCHED = "unmatched"
REFUSED = frozenset({401, 403, 429})  # audited with any method; other requests only if they ask for something
CALLBACKS = f"{CALLBACK_PREFIX}{{bot}}"  # the route of all callbacks of chat platforms
# Requested every few seconds, chat platforms ask for each growing answer: successes are logged as DEBUG.
POLLED = frozenset({"/healthz", "/readyz", "/metrics", CALLBACKS})
STATIC_FILES = "/web/{path:path}"  # many for each visit of the page: as well

_log = logging.getLogger("glm.access")
_KEY = "glm.request_log"


@dataclass(slots=True, eq=False)
class RequestLog:
    """What is logged and measured of one HTTP request; observes its answers."""

    request_id: str
    clock: Clock
    meter: Meter
    received_at: float
    caller: Caller = ANONYMOUS
    audit: RequestAudit | None = None
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
        cancelled = self.disconnected and not (answers and answers.finished)  # after the end, nothing is lost
        status = CLIENT_CLOSED_REQUEST if cancelled or self.status is None else self.status
        total_s = self.clock() - self.received_at
        self.meter.count(REQUESTS, route=route, status=str(status))
        self.meter.observe(REQUEST_SECONDS, total_s, route=route)
        if self.code is not None and route not in POLLED:  # a probe's 503 is not a rejected request
            self.meter.count(REJECTIONS, code=self.code)
        if self.audit is not None and (method == "POST" or status in REFUSED):
            outcome = "client_closed_request" if cancelled else self.code or "ok"
            self.audit.close(route, status, outcome, total_s * 1000, self.caller)
        if cancelled and self.answer_id is not None:
            self.meter.count(CANCELLATIONS)
        _log.log(
            logging.DEBUG if route in (*POLLED, STATIC_FILES) and status < 400 else logging.INFO,
            "%s %s %d in %.0f ms",
            method,
            route,
            status,
            total_s * 1000,
            extra={
                "request_id": self.request_id,
                "answer_id": self.answer_id,
                "caller": self.caller.id,
                "tenant": self.caller.tenant,
                "method": method,
                "route": route,
                "status": status,
                "code": self.code,
                "prompt_tokens": started.prompt_tokens if started else None,
                "image_tokens": started.image_tokens if started else None,
                "completion_tokens": answers.usage.completion_tokens if answers else 0,
                "vram_bytes": answers.finished.vram_bytes if answers and answers.finished else None,
                "stages_ms": answers.stages_ms if answers else {},
                "total_ms": round(total_s * 1000, 3),
            },
        )


def request_log_of(scope: MutableMapping[str, Any]) -> RequestLog:
    request_log = scope[_KEY]
    assert isinstance(request_log, RequestLog)
    return request_log


class RequestLogMiddleware:
    """Gives each request its request log and id, and closes the log when the request is over.

    The id is the request's own `X-Request-ID` where headers and logs can hold it. It is set in the request, so that
    Ray Serve logs the same one, and in the response.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        meter: Meter,
        paths: Container[str],
        clock: Clock,
        new_id: Callable[[], str],
        audit: AuditLog | None = None,
    ) -> None:
        self._app = app
        self._meter = meter
        self._paths = paths
        self._clock = clock
        self._new_id = new_id
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_header(scope["headers"]) or self._new_id()
        header = (REQUEST_ID, request_id.encode())
        scope["headers"] = [*_without_id(scope["headers"]), header]
        request_log = scope[_KEY] = RequestLog(request_id, self._clock, self._meter, self._clock())

        if self._audit is not None:
            request_log.audit = self._audit.of_request(request_id, scope["method"])
        complete = False

        async def send_logged(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                request_log.status = message["status"]
                message["headers"] = [*_without_id(message.get("headers", ())), header]
            await send(message)

        try:
            await self._app(scope, receive, send_logged)
        except asyncio.CancelledError:  # how Ray Serve reports that the client closed the connection
            request_log.disconnected = True
            raise
        finally:
            # Ray Serve returns without an error, and before the application has noticed it, when a client disconnects.
            request_log.disconnected = request_log.disconnected or not complete
            request_log.close(scope["method"], self._route(scope))

    def _route(self, scope: Scope) -> str:
        """The route's path template, never the request's own path: a metric's label has a closed set of values."""
        if (route := scope.get("route")) is not None:
            return str(getattr(route, "path", UNMATCHED))
        return scope["path"] if scope["path"] in self._paths else UNMATCHED


def _without_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() != REQUEST_ID]
