"""Reads the complete body of a request before other work on it, within limits of size, time and memory.

A request takes no place in the service until its body has arrived: a client that sends half of one costs a connection
and some bytes, and both are bounded. When the bound on unfinished bodies is reached, the oldest is refused; when the
bound on bytes is reached, the largest unfinished one is: small, fast requests are served while others upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import Overloaded, PayloadTooLarge, RequestTimeout, ServiceError
from serve_app.process_memory import Collector


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large bodies may be and how fast they have to arrive."""

    max_bytes: int  # of one body
    timeout_s: float  # for one complete body
    grace_s: float  # before the minimum rate applies
    min_bytes_per_s: float
    max_unfinished: int  # bodies that are being received
    max_bytes_in_flight: int  # of all bodies, until their requests end


class BodyLease:
    """The bytes that one request's body holds until the request ends."""

    def __init__(self, budget: BodyBudget) -> None:
        self.bytes = 0
        self._budget = budget

    def release(self) -> None:
        self._budget.release(self.bytes)
        self.bytes = 0


class BodyBudget:
    """The bytes that all bodies of this process hold, and the bodies that are still being received."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self.bytes = 0
        self._collector = Collector()
        self._unfinished: dict[BodyLease, _Reading] = {}  # oldest first

    def release(self, size: int) -> None:
        self.bytes -= size
        self._collector.released(size)

    async def read(self, scope: Scope, receive: Receive) -> tuple[bytes, BodyLease]:
        """The complete body, and the lease on its bytes.

        Raises PayloadTooLarge, RequestTimeout (too slow), Overloaded (no memory left) or ClientDisconnect.
        """
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self.limits.max_bytes:
            raise self._too_large()
        lease = BodyLease(self)
        reading = self._unfinished[lease] = _Reading(self.limits)
        try:
            if len(self._unfinished) > self.limits.max_unfinished:
                oldest = next(iter(self._unfinished))
                error = RequestTimeout("The service has too many unfinished bodies and refused the oldest one.")
                self._unfinished.pop(oldest).refuse(error)
            chunks = []
            async for chunk in reading.chunks(receive):
                chunks.append(chunk)
                self._reserve(lease, len(chunk))
            return b"".join(chunks), lease
        except BaseException:
            lease.release()
            raise
        finally:
            self._unfinished.pop(lease, None)  # gone already if it was refused

    def _reserve(self, lease: BodyLease, size: int) -> None:
        lease.bytes += size
        self.bytes += size
        if lease.bytes > self.limits.max_bytes:
            raise self._too_large()
        if self.bytes > self.limits.max_bytes_in_flight:
            largest = max(self._unfinished, key=lambda each: each.bytes, default=lease)
            error = Overloaded(
                f"The requests in progress hold {readable(self.limits.max_bytes_in_flight)} of bodies, the limit of"
                " this service. Try again shortly, or send smaller pictures."
            )
            if largest is lease:
                raise error
            self._unfinished.pop(largest).refuse(error)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The body is larger than {readable(self.limits.max_bytes)}, the limit of this service."
            " Send fewer or smaller pictures."
        )


class _Reading:
    """One body that is being received, and its deadline, which moves with each received byte."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._received = 0
        self._refusal: ServiceError | None = None
        self._timeout: asyncio.Timeout | None = None  # while a message is waited for

    def refuse(self, error: ServiceError) -> None:
        """Ends the reading with `error`."""
        self._refusal = error
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        started = asyncio.get_running_loop().time()
        more = True
        while more:
            message = await self._message(receive, started)
            if self._refusal is not None:
                raise self._refusal
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if body := message.get("body", b""):
                self._received += len(body)
                yield body

    async def _message(self, receive: Receive, started: float) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline(started)) as self._timeout:
                return await receive()
        except TimeoutError:
            raise self._refusal or self._too_slow() from None
        finally:
            self._timeout = None

    def _deadline(self, started: float) -> float:
        limits = self._limits
        return started + min(limits.timeout_s, limits.grace_s + self._received / limits.min_bytes_per_s)

    def _too_slow(self) -> RequestTimeout:
        limits = self._limits
        return RequestTimeout(
            f"The body arrived too slowly ({self._received} bytes so far). It may take {limits.timeout_s:g} seconds,"
            f" and after {limits.grace_s:g} seconds at least {limits.min_bytes_per_s:g} bytes a second have to arrive."
        )


class BodyReader:
    """ASGI middleware: calls the application when the body is complete."""

    def __init__(self, app: ASGIApp, *, budget: BodyBudget) -> None:
        self._app = app
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body: bytes | None
        body, lease = await self._budget.read(scope, receive)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = None  # the application holds it now
            return message

        try:
            await self._app(scope, replay, send)
        finally:
            lease.release()


def readable(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size} bytes"
