"""POST /v1/completions: a text gone on with, without the chat template; OpenAI's older API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Numbered
from serve_app.contracts import Delta, Event, Finished
from serve_app.ingress.body import read_json
from serve_app.ingress.completions.request import CompletionBody, completion_request
from serve_app.ingress.completions.response import Completion, CompletionChoice
from serve_app.ingress.context import Door
from serve_app.ingress.examples import COMPLETION
from serve_app.ingress.fields.logprobs import completion_logprobs
from serve_app.ingress.fields.stream_options import StreamOptions
from serve_app.ingress.fields.usage import usage_reply
from serve_app.ingress.openapi import answers_documented, json_body
from serve_app.ingress.request_log import Record, record_of
from serve_app.ingress.respond import Gathered, told
from serve_app.ingress.sse import DONE

DESCRIPTION = """A text to go on with, exactly as it stands: no chat template, no pictures, no reasoning, no tools.

Streamed: `data:` lines of the same shape, each with new text; with `stream_options.include_usage` one with the usage
and no choices; then `[DONE]`. For questions, use /v1/chat/completions.
"""


def completion_routes(door: Door) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/completions",
        summary="Go on with a text",
        description=DESCRIPTION,
        response_model=Completion,
        responses=answers_documented(Completion, last=DONE),
        openapi_extra=json_body(CompletionBody, examples=COMPLETION),
    )
    async def create_completion(request: Request) -> Response:
        body = CompletionBody.read(await read_json(request))
        door.check_model(body.model)
        asked = completion_request(body, id=f"cmpl-{door.new_id()}", deadline_s=door.deadline_s)
        telling = Telling(door, asked.id, int(door.now()), body, record_of(request.scope))
        return await told(request, door.answer, door.choices(asked, body.n), telling, stream=bool(body.stream))

    return router


@dataclass(slots=True)
class Telling:
    """How the answers to one text are told."""

    door: Door
    id: str
    created: int
    body: CompletionBody
    record: Record

    def completion(self, whole: list[Gathered]) -> Completion:
        reply = self._reply([self._choice(index, each) for index, each in enumerate(whole)])
        reply["usage"] = usage_reply(self.record.usage)
        reply["timings"] = self.record.timings
        return reply

    def _reply(self, choices: list[CompletionChoice]) -> Completion:
        reply: Completion = {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.door.served,
            "system_fingerprint": self.door.fingerprint,
            "choices": choices,
        }
        if self.body.service_tier is not None:
            reply["service_tier"] = "default"
        return reply

    def _choice(self, index: int, answer: Gathered) -> CompletionChoice:
        return {
            "index": index,
            "text": answer.text,
            "logprobs": None if self.body.logprobs is None else completion_logprobs(answer.logprobs, 0),
            "finish_reason": answer.end.reason,
        }

    async def chunks(self, events: Numbered, answers: int) -> AsyncGenerator[Any, None]:
        options = self.body.stream_options or StreamOptions()
        offsets = [0] * answers  # characters told of each
        async with aclosing(events):
            async for index, event in events:
                chunk = self._reply([self._piece(index, event, offsets[index])])
                if isinstance(event, Delta):
                    offsets[index] += len(event.text)
                if options.include_usage:
                    chunk["usage"] = usage_reply(self.record.usage) if options.continuous_usage_stats else None
                if self.record.finished is not None:
                    chunk["timings"] = self.record.timings
                yield chunk
        if options.include_usage:
            yield {**self._reply([]), "usage": usage_reply(self.record.usage), "timings": self.record.timings}
        yield DONE

    def _piece(self, index: int, event: Event, offset: int) -> CompletionChoice:
        return {
            "index": index,
            "text": event.text if isinstance(event, Delta) else "",
            "logprobs": completion_logprobs(event.logprobs, offset)
            if isinstance(event, Delta) and event.logprobs
            else None,
            "finish_reason": event.reason if isinstance(event, Finished) else None,
        }
