"""From a request to its HTTP response: a JSON body or a stream; every answering route ends here."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Answers
from serve_app.contracts import CacheUse, ChatRequest
from serve_app.errors import ServiceError
from serve_app.ingress.context import ServingContext
from serve_app.ingress.disconnect import run_until_disconnect
from serve_app.ingress.errors import error_json
from serve_app.ingress.limit_check import reserve
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.sse import EventStream, data_frame
from serve_app.ingress.validation import truncate

MAX_NAMED: Final = 32  # fields in one header
_PLAIN: Final = "[]_.- "  # characters of a field's name that a header may have


class Responder(ABC):
    """Writes the answers to one request in the shape of one API."""

    frame = staticmethod(data_frame)  # a chunk as a server-sent event

    @abstractmethod
    async def body(self, answers: Answers) -> Any:
        """The JSON body of a non-streaming response, once the answers are complete."""

    @abstractmethod
    def chunks(self, answers: Answers) -> AsyncGenerator[Any, None]:
        """The chunks of a streaming response; raises what the answers raise."""

    def error_chunks(self, answers: Answers, error: ServiceError) -> Sequence[Any]:
        """The last chunks of a stream that fails after its first chunk."""
        return [error_json(error)]


async def respond(
    request: Request,
    context: ServingContext,
    requests: Sequence[ChatRequest],
    responder: Responder,
    *,
    id: str,
    ignored: Sequence[str] = (),
) -> Response:
    """The response to `requests`, which are the choices of one HTTP request.

    `id` is the response id, `ignored` has the names of the body's fields that had no effect.
    """
    request_log = request_log_of(request.scope)
    request_log.answer_id = id
    await reserve(request.scope, requests, context.default_max_tokens)
    asked = [replace(each, caller=request_log.caller, cache=cache_use(request.headers)) for each in requests]
    if request_log.audit is not None:
        request_log.audit.asked(asked, id, request.scope["route"].path)
    answers = Answers(
        context.answer,
        asked,
        observers=(request_log,),
        audit=request_log.audit,
        clock=request_log.clock,
        received_at=request_log.received_at,
    )
    if requests[0].stream:
        return EventStream(
            responder.chunks(answers),
            request_log,
            headers=lambda: _headers(answers, ignored),
            frame=responder.frame,
            error_chunks=lambda error: responder.error_chunks(answers, error),
            keep_alive_s=context.keep_alive_s,
        )
    body = await run_until_disconnect(request.receive, request_log, responder.body(answers))
    return Response(_to_json(body), headers=_headers(answers, ignored), media_type="application/json")


def _to_json(body: Any) -> bytes:
    """The body as JSON; the argument of a tool may be an integer of more than 64 bits, which orjson does not write."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def timings_json(answers: Answers) -> dict[str, float]:
    """Milliseconds by stage as `<stage>_ms`, and in total since the request came in; then the same as llama.cpp's.

    `vram_bytes` is the device memory of this request at its peak, 0 on a CPU. llama.cpp's are `prompt_n` and
    `predicted_n` (tokens), `prompt_ms` and `predicted_ms`; Open WebUI shows them.
    """
    spent = answers.stages_ms
    stages = {f"{stage}_ms": round(duration, 3) for stage, duration in spent.items()}
    prompt_ms = spent.get("encode", 0.0) + spent.get("prefill", 0.0)
    return {
        **stages,
        "total_ms": round(answers.total_ms, 3),
        "prompt_n": answers.usage.prompt_tokens,
        "prompt_ms": round(prompt_ms, 3),
        "predicted_n": answers.usage.completion_tokens,
        "predicted_ms": round(spent.get("decode_steps", 0.0), 3),
        "vram_bytes": answers.finished.vram_bytes if answers.finished else 0,
    }


def _headers(answers: Answers, ignored: Sequence[str]) -> dict[str, str]:
    """What is known of the answers before their text.

    `Server-Timing` has the stages; browsers' developer tools show it. `X-Ignored-Fields` and `X-Max-Tokens` say
    where the request was not done as it was sent, `X-Cache` whether the answer cache had the answer.
    """
    stages = {**answers.stages_ms, "total": answers.total_ms}
    headers = {"Server-Timing": ", ".join(f"{stage};dur={duration:.3f}" for stage, duration in stages.items())}
    started = answers.started
    if names := (*ignored, *(started.ignored_fields if started else ())):
        headers["X-Ignored-Fields"] = ", ".join(quote(truncate(name), safe=_PLAIN) for name in names[:MAX_NAMED])
    if started and started.clipped_max_tokens is not None:
        headers["X-Max-Tokens"] = str(started.clipped_max_tokens)
    if answers.from_cache is not None:
        headers["X-Cache"] = "hit" if answers.from_cache else "miss"
    return headers


def cache_use(headers: Mapping[str, str]) -> CacheUse:
    """What the header Cache-Control (RFC 9111) means for the answer cache."""
    directives = {each.strip().lower() for each in headers.get("cache-control", "").split(",")}
    if "no-store" in directives:
        return "off"
    return "refresh" if directives & {"no-cache", "max-age=0"} else "use"
