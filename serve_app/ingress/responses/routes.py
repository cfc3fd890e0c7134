"""POST /v1/responses: OpenAI's newer API, whole or as its events; nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from typing import Any, Literal, TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Numbered, answers
from serve_app.contracts import Started, Usage
from serve_app.errors import ImageRejected, RateLimited, ServiceError
from serve_app.ingress.body import read_json
from serve_app.ingress.context import Door
from serve_app.ingress.disconnect import while_present
from serve_app.ingress.examples import RESPONSE
from serve_app.ingress.fields.strict_model import Wire
from serve_app.ingress.fields.usage import boxed_replies, image_replies
from serve_app.ingress.openapi import answers_documented, json_body
from serve_app.ingress.request_log import Record, record_of
from serve_app.ingress.respond import json_reply
from serve_app.ingress.responses.output_items import Output, Told
from serve_app.ingress.responses.request import ResponseBody, response_request
from serve_app.ingress.responses.response import STREAM_EVENTS, ResponseReply, ResponseUsage
from serve_app.ingress.sse import EventStream, typed_frame

DESCRIPTION = """A question about text and pictures, or a conversation, in OpenAI's newer shape; nothing is stored, so
the whole conversation is sent each time. The output is items: `reasoning`, `message`, `function_call`.

Streamed: events named by `event:`, numbered by `sequence_number`: `response.created`, `response.in_progress`, then for
each item `response.output_item.added`, its parts and deltas, `response.output_item.done`, and last
`response.completed` or, where the limit of tokens cut the answer, `response.incomplete`. A failure before the first
event has its own HTTP status; a later one is told as `error`, then `response.failed`.

Functions are the only tools; OpenAI's own (web search, files, code, computers) are refused by name.
"""

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


def response_routes(door: Door) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/responses",
        summary="Answer with output items",
        description=DESCRIPTION,
        response_model=ResponseReply,
        responses=answers_documented(*STREAM_EVENTS),
        openapi_extra=json_body(ResponseBody, examples=RESPONSE),
    )
    async def create_response(request: Request) -> Response:
        record = record_of(request.scope)
        body = ResponseBody.read(await read_json(request))
        door.check_model(body.model)
        asked = response_request(body, id=f"resp_{door.new_id()}", deadline_s=door.deadline_s)
        record.answer_id = asked.id
        events = answers(door.answer, (asked,), record)
        told = Telling(door, asked.id, body, record)
        if body.stream:
            return EventStream(told.events(events), record, frame=typed_frame, late_failure=told.failure)
        return json_reply(await while_present(request.receive, record, told.whole(events)), record)

    return router


class Telling:
    """How one response is told."""

    def __init__(self, door: Door, id: str, body: ResponseBody, record: Record) -> None:
        self._door = door
        self._id = id
        self._body = body
        self._record = record
        self._created = int(door.now())
        self._output = Output(door.new_id)
        self._numbers = count()

    async def whole(self, events: Numbered) -> ResponseReply:
        async with aclosing(events):
            async for _, event in events:
                self._output.take(event)
        return self._finished()

    async def events(self, events: Numbered) -> AsyncGenerator[Any, None]:
        async with aclosing(events):
            async for _, event in events:
                if isinstance(event, Started):
                    yield self._numbered({"type": "response.created", "response": self._reply("in_progress")})
                    yield self._numbered({"type": "response.in_progress", "response": self._reply("in_progress")})
                for change in self._output.take(event):
                    yield self._numbered(change)
        reply = self._finished()
        yield self._numbered({"type": f"response.{reply['status']}", "response": reply})

    def failure(self, error: ServiceError) -> list[Told]:
        """The events that end a stream which can't go on."""
        self._output.stop()
        reply = self._reply("failed")
        reply["error"] = {"code": _openai_code(error), "message": error.message}
        told: list[Told] = [
            {"type": "error", "code": error.code, "message": error.message, "param": error.param},
            {"type": "response.failed", "response": reply},
        ]
        return [self._numbered(each) for each in told]

    def _numbered(self, event: Told) -> Told:
        return {"sequence_number": next(self._numbers), **event}

    def _finished(self) -> ResponseReply:
        finished = self._record.finished
        assert finished is not None
        cut = finished.reason == "length"
        reply = self._reply("incomplete" if cut else "completed")
        reply["usage"] = response_usage(finished.usage)
        reply["timings"] = self._record.timings
        if cut:
            reply["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            reply["completed_at"] = int(self._door.now())
        if finished.boxed:
            reply["boxes"] = boxed_replies(finished.boxed)
        return reply

    def _reply(self, status: Status) -> ResponseReply:
        body = self._body
        reply: ResponseReply = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": self._door.served,
            "output": list(self._output.items),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}, **(_given(body.text) or {})},
            "tool_choice": _given(body.tool_choice) or "auto",
            "tools": [_given(tool) for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }
        if self._record.pictures:
            reply["images"] = image_replies(self._record.pictures)
        return reply


def _given(body: Wire | str | None) -> Any:
    """A part of the request as its caller gave it."""
    return body.model_dump(by_alias=True, exclude_none=True) if isinstance(body, Wire) else body


def _openai_code(error: ServiceError) -> str:
    """The nearest of the codes that OpenAI's clients know here."""
    match error:
        case ImageRejected():
            return "invalid_image"
        case RateLimited():
            return "rate_limit_exceeded"
        case _:
            return "server_error" if error.status >= 500 else "invalid_prompt"


def response_usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "image_tokens": usage.image_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
