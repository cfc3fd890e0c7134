"""POST /v1/chat/completions: OpenAI's chat, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.contracts import Answer, Delta, Events, Finished, FinishReason, Started, Usage
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import while_present
from serve_app.ingress.events import noted, whole
from serve_app.ingress.record import Record, record_of
from serve_app.ingress.replies import (
    AnswerDelta,
    ChatCompletion,
    ChatCompletionChunk,
    errors_documented,
    usage_reply,
)
from serve_app.ingress.request import chat_request
from serve_app.ingress.schema import StreamOptions, chat_body
from serve_app.ingress.stream import DONE, EventStream

DESCRIPTION = """A conversation with pictures, answered whole or as server-sent events.

Streamed: one `data:` line for each chunk: first the role, then the text as it is drawn, a chunk with the
`finish_reason`, with `stream_options.include_usage` one with the usage and no choices, then `[DONE]`. A failure
before the first chunk has its own HTTP status; a later one is told as `data: {"error": {...}}` and ends the stream.

Fields described as "Accepted and ignored" have no effect. Any field that is not listed is refused by name.
"""
EXAMPLE = {  # the picture is a red square
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "image_url",
                    "image_url": {
                        "url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKE"
                        "lEQVR42mM8ISfHQG3AxEADMGroqKGjho4aOmroqKGjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
                    },
                },
                {"type": "text", "text": "What colour is this?"},
            ],
        }
    ],
    "max_tokens": 64,
    "temperature": 0,
}


def chat_routes(
    answer: Answer,
    *,
    served: str,
    fingerprint: str,
    deadline_s: float,
    now: Callable[[], float],
    new_id: Callable[[], str],
) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        description=DESCRIPTION,
        response_model=ChatCompletion,
        responses={
            200: {
                "description": "The answer; with `stream` its chunks. `Server-Timing` has the stages known so far.",
                "content": {
                    "text/event-stream": {"schema": {"$ref": "#/components/schemas/ChatCompletionChunk"}},
                },
            },
            **errors_documented(400, 404, 413, 429, 500, 503, 504),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ChatBody"}, "example": EXAMPLE}
                },
            }
        },
    )
    async def create_chat_completion(request: Request) -> Response:
        record = record_of(request.scope)
        body = chat_body(await read_json(request))
        asked = chat_request(body, id=f"chatcmpl-{new_id()}", served=served, deadline_s=deadline_s)
        record.answer_id = asked.id
        events = noted(answer(asked), record)
        created = int(now())
        if body.stream:
            head: ChatCompletionChunk = {
                "id": asked.id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": served,
                "system_fingerprint": fingerprint,
                "choices": [],
            }
            return EventStream(_chunks(events, head, body.stream_options or StreamOptions(), record), record)
        text, finished = await while_present(request.receive, record, whole(events))
        reply: ChatCompletion = {
            "id": asked.id,
            "object": "chat.completion",
            "created": created,
            "model": served,
            "system_fingerprint": fingerprint,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": finished.reason,
                }
            ],
            "usage": usage_reply(finished.usage),
            "timings": record.timings,
        }
        return Response(
            orjson.dumps(reply), headers={"Server-Timing": record.server_timing}, media_type="application/json"
        )

    return router


async def _chunks(
    events: Events, head: ChatCompletionChunk, options: StreamOptions, record: Record
) -> AsyncGenerator[Any, None]:
    """The answer as OpenAI's chunks."""

    def chunk(delta: AnswerDelta, reason: FinishReason | None = None) -> ChatCompletionChunk:
        filled: ChatCompletionChunk = {
            **head,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
        }
        if options.include_usage:
            filled["usage"] = usage_reply(_so_far(record)) if options.continuous_usage_stats else None
        return filled

    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    yield chunk({"role": "assistant", "content": ""})
                case Delta():
                    yield chunk({"content": event.text})
                case Finished():
                    timings = record.timings
                    yield {**chunk({}, event.reason), "timings": timings}
                    if options.include_usage:
                        yield {**head, "usage": usage_reply(event.usage), "timings": timings}
    yield DONE


def _so_far(record: Record) -> Usage:
    if record.finished is not None:
        return record.finished.usage
    started = record.started or Started(0, 0)
    return Usage(started.prompt_tokens, record.tokens, started.image_tokens)
