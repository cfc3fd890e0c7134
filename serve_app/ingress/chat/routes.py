"""POST /v1/chat/completions: OpenAI's chat, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Numbered
from serve_app.contracts import Delta, Event, Finished, FinishReason, Started, TokenLogprob, ToolCallDelta
from serve_app.ingress.body import read_json
from serve_app.ingress.chat.request import ChatBody, chat_request
from serve_app.ingress.chat.response import (
    AnswerDelta,
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    Choice,
    ToolCallDeltaReply,
)
from serve_app.ingress.context import Door
from serve_app.ingress.examples import CHAT
from serve_app.ingress.fields.logprobs import chat_logprobs
from serve_app.ingress.fields.stream_options import StreamOptions
from serve_app.ingress.fields.usage import boxed_replies, image_replies, usage_reply
from serve_app.ingress.openapi import answers_documented, json_body
from serve_app.ingress.request_log import Record, record_of
from serve_app.ingress.respond import Gathered, told
from serve_app.ingress.sse import DONE

DESCRIPTION = """A conversation with pictures, answered whole or as server-sent events.

Streamed: one `data:` line for each chunk: first the role, then reasoning, text and tool calls as they are drawn, a
chunk with the `finish_reason` for each answer, with `stream_options.include_usage` one with the usage and no choices,
then `[DONE]`. Chunks of several answers (`n`) come as they happen and say which by `index`. A failure before the first
chunk has its own HTTP status; a later one is told as `data: {"error": {...}}` and ends the stream.

`finish_reason` is `tool_calls` whenever the answer calls tools, also where `tool_choice` names the function: loops
that run tools look at it, and OpenAI's reference defines it so.

`images` tells what became of each picture: its size as uploaded, upright, and as the model saw it. `boxes` are regions
that the model pointed at, in thousandths and in the uploaded picture's own pixels.

Fields described as "Accepted and ignored" have no effect. Any field that is not listed is refused by name.
"""


def chat_routes(door: Door) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        description=DESCRIPTION,
        response_model=ChatCompletion,
        responses=answers_documented(ChatCompletionChunk, last=DONE),
        openapi_extra=json_body(ChatBody, examples=CHAT),
    )
    async def create_chat_completion(request: Request) -> Response:
        body = ChatBody.read(await read_json(request))
        door.check_model(body.model)
        asked = chat_request(body, id=f"chatcmpl-{door.new_id()}", deadline_s=door.deadline_s)
        telling = Telling(door, asked.id, int(door.now()), body, record_of(request.scope))
        return await told(request, door.answer, door.choices(asked, body.n), telling, stream=bool(body.stream))

    return router


@dataclass(slots=True)
class Telling:
    """How the answers to one chat are told."""

    door: Door
    id: str
    created: int
    body: ChatBody
    record: Record

    def completion(self, whole: list[Gathered]) -> ChatCompletion:
        reply: ChatCompletion = {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.door.served,
            "system_fingerprint": self.door.fingerprint,
            "choices": [self._choice(index, each) for index, each in enumerate(whole)],
            "usage": usage_reply(self.record.usage),
            "timings": self.record.timings,
        }
        if self.body.service_tier is not None:
            reply["service_tier"] = "default"
        if self.record.pictures:
            reply["images"] = image_replies(self.record.pictures)
        return reply

    def _choice(self, index: int, answer: Gathered) -> Choice:
        message: AnswerMessage = {
            "role": "assistant",
            "content": answer.text if answer.texts or not answer.calls else None,
            "refusal": None,
            "annotations": [],
        }
        if answer.reasonings:
            message["reasoning_content"] = message["reasoning"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in answer.calls
            ]
        if answer.end.boxed:
            message["boxes"] = boxed_replies(answer.end.boxed)
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(answer.logprobs) if self.body.logprobs else None,
            "finish_reason": answer.end.reason,
        }

    def _call_id(self) -> str:
        return f"call_{self.door.new_id()}"

    async def chunks(self, events: Numbered, answers: int) -> AsyncGenerator[Any, None]:
        options = self.body.stream_options or StreamOptions()
        unfinished = answers
        async with aclosing(events):
            async for index, event in events:
                chunk = self._chunk(index, event, options)
                if isinstance(event, Finished):
                    unfinished -= 1
                    if not unfinished:
                        self._close(chunk)
                yield chunk
        if options.include_usage:
            last = self._head()
            last["usage"] = usage_reply(self.record.usage)
            self._close(last)
            yield last
        yield DONE

    def _head(self) -> ChatCompletionChunk:
        head: ChatCompletionChunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.door.served,
            "system_fingerprint": self.door.fingerprint,
            "choices": [],
        }
        if self.body.service_tier is not None:
            head["service_tier"] = "default"
        return head

    def _close(self, chunk: ChatCompletionChunk) -> None:
        """What is known at the end only."""
        chunk["timings"] = self.record.timings
        if self.record.pictures:
            chunk["images"] = image_replies(self.record.pictures)

    def _chunk(self, index: int, event: Event, options: StreamOptions) -> ChatCompletionChunk:
        chunk = self._head()
        logprobs: tuple[TokenLogprob, ...] = ()
        reason: FinishReason | None = None
        match event:
            case Delta():
                logprobs = event.logprobs if event.channel == "text" else ()
            case Finished():
                reason = event.reason
        chunk["choices"] = [
            {
                "index": index,
                "delta": self._delta(index, event),
                "logprobs": chat_logprobs(logprobs) if logprobs else None,
                "finish_reason": reason,
            }
        ]
        if options.include_usage:
            chunk["usage"] = usage_reply(self.record.usage) if options.continuous_usage_stats else None
        return chunk

    def _delta(self, index: int, event: Event) -> AnswerDelta:
        match event:
            case Started():
                return {"role": "assistant", "content": ""}
            case Delta(channel="reasoning"):
                return {"reasoning_content": event.text, "reasoning": event.text}
            case Delta():
                return {"content": event.text}
            case ToolCallDelta():
                call: ToolCallDeltaReply = {"index": event.index, "function": {"arguments": event.arguments}}
                if event.name is not None:
                    call["id"], call["type"] = self._call_id(), "function"
                    call["function"]["name"] = event.name
                return {"tool_calls": [call]}
            case Finished():
                return {"boxes": boxed_replies(event.boxed)} if event.boxed else {}
