"""Limit check: counts a request for its caller and tenant before its body is read, and what it used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.access.rate_limits import Admission, RateLimits
from serve_app.access.usage import UsageRecorder, Used
from serve_app.contracts import ChatRequest
from serve_app.errors import RateLimited
from serve_app.ingress.request_log import request_log_of
from serve_app.request_size import one_of_each_prompt, text_characters

CHARACTERS_PER_TOKEN: Final = 2  # an estimate on the high side for Chinese and English together
_KEY: Final = "glm.admission"
_closing: set[asyncio.Task[None]] = set()


class LimitCheck:
    """ASGI middleware: refuses POST requests above a limit (429); others always pass.

    The body is not read yet, so requests in progress and per second are counted here, and a caller without tokens or
    pictures left is refused. `reserve` counts the rest when the request is known.
    """

    def __init__(self, app: ASGIApp, *, limits: RateLimits, usage: UsageRecorder) -> None:
        self._app = app
        self._limits = limits
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        admission = scope[_KEY] = self._limits.open(request_log_of(scope).caller)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in admission.headers().items()]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        try:
            await admission.enter()
            await self._app(scope, receive, send_with_headers)
        except RateLimited as error:
            error.headers = admission.headers()
            raise
        finally:
            # In a task of its own: this one may have been cancelled, because the client has gone.
            used = _used(scope)
            if used.requests:
                self._usage.record(request_log_of(scope).caller, used)
            closing = asyncio.create_task(admission.close(tokens=used.prompt_tokens + used.completion_tokens))
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)


async def reserve(scope: Scope, requests: Sequence[ChatRequest], default_max_tokens: int) -> None:
    """Counts the pictures of a request, and its tokens as an estimate, before work on it. Raises RateLimited."""
    admission: Admission | None = scope.get(_KEY)
    if admission is not None:
        prompts = one_of_each_prompt(requests)
        tokens = sum(request.sampling.max_tokens or default_max_tokens for request in requests)
        tokens += sum(map(text_characters, prompts)) // CHARACTERS_PER_TOKEN
        await admission.reserve(tokens=tokens, pictures=sum(len(request.uploads) for request in prompts))


def _used(scope: Scope) -> Used:
    """What a request has used, also of an answer that the client did not wait for; nothing if no model worked."""
    answers = request_log_of(scope).answers
    if answers is None:
        return Used()
    usage, finished = answers.usage, answers.finished
    device_ms = finished.device_ms if finished else 0.0
    return Used(1, usage.prompt_tokens, usage.completion_tokens, len(answers.pictures), device_ms)
