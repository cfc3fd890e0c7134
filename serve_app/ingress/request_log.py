"""What one request leaves behind: its id, one log record, its measurements.

The record never holds text or picture: ids, counts, codes and times only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.contracts import Delta, Event, Finished, PictureSeen, Started, ToolCallDelta, Usage
from serve_app.metrics import (
    CANCELLATIONS,
    FIRST_TOKEN_SECONDS,
    OUTPUT_TOKEN_SECONDS,
    REJECTIONS,
    REQUEST_SECONDS,
    REQUESTS,
    Meter,
)

Clock: TypeAlias = Callable[[], float]

CALLER_GONE = 499  # nginx's and Ray Serve's status for "the client closed the connection"
MAX_ID_LENGTH = 128
UNMATCHED = "unmatched"
DOCUMENT = "/openapi.json"  # FastAPI answers it without naming a route
POLLED = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds: logged as DEBUG when well

_log = logging.getLogger("glm.access")
_KEY = "glm.record"


@dataclass(slots=True, eq=False)
class Record:
    """One request at the door, filled in by the rooms that it passes."""

    request_id: str
    clock: Clock
    meter: Meter
    arrived: float
    status: int | None = None
    code: str | None = None  # of the error that the caller was told
    answer_id: str | None = None
    answers: int = 1  # asked at once by this request
    gone: bool = False  # the caller left before the end
    started: Started | None = None
    finished: Finished | None = None
    tokens: int = 0  # drawn so far, of all answers
    reasoning_tokens: int = 0  # of them
    first_text_at: float | None = None
    first_tokens: int = 0  # of them, when the first text came

    @property
    def total_ms(self) -> float:
        return (self.clock() - self.arrived) * 1000

    @property
    def stages_ms(self) -> dict[str, float]:
        """Stages known by now; the terminal event knows them all."""
        for event in (self.finished, self.started):
            if event is not None:
                return event.stages_ms
        return {}

    @property
    def timings(self) -> dict[str, float]:
        """The stages as callers get them: `<stage>_ms`, then the whole."""
        stages = {f"{stage}_ms": round(duration, 3) for stage, duration in self.stages_ms.items()}
        return {**stages, "total_ms": round(self.total_ms, 3)}

    @property
    def server_timing(self) -> str:
        """The stages as a `Server-Timing` header; the browser's developer tools draw it."""
        stages = {**self.stages_ms, "total": self.total_ms}
        return ", ".join(f"{stage};dur={duration:.3f}" for stage, duration in stages.items())

    @property
    def usage(self) -> Usage:
        """Tokens counted so far."""
        if self.finished is not None:
            return self.finished.usage
        started = self.started or Started(0, 0)
        return Usage(started.prompt_tokens, self.tokens, started.image_tokens, self.reasoning_tokens)

    @property
    def pictures(self) -> tuple[PictureSeen, ...]:
        """What became of the request's pictures."""
        return self.started.pictures if self.started else ()

    def note(self, event: Event) -> None:
        """Take in an event of an answer on its way to the caller; of several answers one common end."""
        match event:
            case Started():
                self.started = self.started or event
            case Delta() | ToolCallDelta():
                self.tokens += event.tokens
                if isinstance(event, Delta) and event.channel == "reasoning":
                    self.reasoning_tokens += event.tokens
                if self.first_text_at is None:
                    self.first_text_at = self.clock()
                    self.first_tokens = self.tokens
                    self.meter.observe(FIRST_TOKEN_SECONDS, self.first_text_at - self.arrived)
            case Finished():
                self.finished = event
                later_tokens = (event.usage.completion_tokens - self.first_tokens) / self.answers
                if self.first_text_at is not None and later_tokens > 0:
                    self.meter.observe(OUTPUT_TOKEN_SECONDS, (self.clock() - self.first_text_at) / later_tokens)


def record_of(scope: MutableMapping[str, Any]) -> Record:
    record = scope[_KEY]
    assert isinstance(record, Record)
    return record


class Recorded:
    """Gives each request its record and its id, and closes the record when the request is over."""

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
        request_id = _callers_id(scope["headers"]) or self._new_id()
        record = scope[_KEY] = Record(request_id, self._clock, self._meter, arrived=self._clock())

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if self._echo:
                    message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except asyncio.CancelledError:  # how Ray Serve says that the caller went away
            record.gone = True
            raise
        finally:
            _close(record, scope)


def _callers_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's own request id, if it is fit for headers and logs."""
    for name, value in headers:
        if name == b"x-request-id":
            fit = 0 < len(value) <= MAX_ID_LENGTH and all(0x21 <= byte <= 0x7E for byte in value)
            return value.decode("ascii") if fit else None
    return None


def _route(scope: Scope) -> str:
    """The route's own path, never the caller's: a metric's label has a closed set of values."""
    if scope["path"] == DOCUMENT:
        return DOCUMENT
    return str(getattr(scope.get("route"), "path", UNMATCHED))


def _close(record: Record, scope: Scope) -> None:
    left_early = record.gone and record.finished is None  # a connection closed after the end is no loss
    status = CALLER_GONE if left_early or record.status is None else record.status
    route = _route(scope)
    total_ms = record.total_ms
    record.meter.count(REQUESTS, route=route, status=str(status))
    record.meter.observe(REQUEST_SECONDS, total_ms / 1000, route=route)
    if record.code is not None and route not in POLLED:  # a probe that is told to wait is no request refused
        record.meter.count(REJECTIONS, code=record.code)
    if left_early and record.answer_id is not None:
        record.meter.count(CANCELLATIONS)

    usage = record.finished.usage if record.finished else None
    _log.log(
        logging.DEBUG if route in POLLED and status < 400 else logging.INFO,
        "%s %s %d in %.0f ms",
        scope["method"],
        route,
        status,
        total_ms,
        extra={
            "request_id": record.request_id,
            "answer_id": record.answer_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "code": record.code,
            "prompt_tokens": record.started.prompt_tokens if record.started else None,
            "image_tokens": record.started.image_tokens if record.started else None,
            "completion_tokens": usage.completion_tokens if usage else record.tokens,
            "stages_ms": record.stages_ms,
            "total_ms": round(total_ms, 3),
        },
    )
