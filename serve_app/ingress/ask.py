"""POST /v1/ask: pictures and a question as a multipart form, one JSON answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from serve_app.contracts import Answer, ChatRequest, Delta, Events, Finished, ImagePart, Message, Started, TextPart
from serve_app.errors import ImageRejected, InvalidRequest
from serve_app.ingress.body import read_form
from serve_app.ingress.caller import while_present
from serve_app.ingress.events import noted, whole
from serve_app.ingress.problems import clipped, invalid_fields
from serve_app.ingress.record import Record, record_of
from serve_app.ingress.replies import AskDelta, AskReply, errors_documented, usage_reply
from serve_app.ingress.request import check_model, sampling
from serve_app.ingress.stream import EventStream

DESCRIPTION = """A question about one picture or several, sent as `multipart/form-data`.

Streamed (`stream=true`): server-sent events; `data: {"delta": "…"}` for each new text, and last the same object
that a whole answer has, with `answer`, `usage` and `timings`. A failure before the first text has its own HTTP
status; a later one is told as `data: {"error": {...}}` and ends the stream.
"""


class AskForm(BaseModel):
    """The fields of the form besides the pictures; a form holds text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Left out: 1.")
    model: str | None = Field(None, description="Left out: the served model.")


class AskUpload(AskForm):
    """The whole form, as the OpenAPI document shows it."""

    image: list[bytes] = Field(
        min_length=1,
        description="One picture or several, each its own part named `image`.",
        json_schema_extra={"items": {"type": "string", "contentMediaType": "application/octet-stream"}},
    )


def ask_routes(answer: Answer, *, served: str, deadline_s: float, new_id: Callable[[], str]) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/ask",
        summary="Ask a question about uploaded pictures",
        description=DESCRIPTION,
        response_model=AskReply,
        responses={
            200: {
                "description": "The answer; with `stream` its pieces, then the answer.",
                "content": {
                    "text/event-stream": {
                        "schema": {
                            "anyOf": [
                                {"$ref": "#/components/schemas/AskDelta"},
                                {"$ref": "#/components/schemas/AskReply"},
                                {"$ref": "#/components/schemas/ErrorReply"},
                            ]
                        }
                    },
                },
            },
            **errors_documented(400, 404, 413, 429, 500, 503, 504),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/AskUpload"}}},
            }
        },
    )
    async def ask(request: Request) -> Response:
        record = record_of(request.scope)
        form = await read_form(request)
        fields, pictures = _fields(form), await _pictures(form)
        check_model(fields.model, served)
        asked = ChatRequest(
            id=f"ask-{new_id()}",
            messages=(Message("user", (*pictures, TextPart(fields.question))),),
            sampling=sampling(max_tokens=fields.max_tokens, temperature=fields.temperature),
            deadline_s=deadline_s,
            stream=bool(fields.stream),
        )
        record.answer_id = asked.id
        events = noted(answer(asked), record)
        if fields.stream:
            return EventStream(_pieces(events, asked.id, served, record), record)
        text, finished = await while_present(request.receive, record, whole(events))
        return Response(
            orjson.dumps(_reply(asked.id, served, text, finished, record)),
            headers={"Server-Timing": record.server_timing},
            media_type="application/json",
        )

    return router


def _fields(form: FormData) -> AskForm:
    values: dict[str, str] = {}
    for name, value in form.multi_items():
        if name == "image":
            continue
        if isinstance(value, UploadFile):
            raise InvalidRequest(f"'{clipped(name)}' is a file; only 'image' may be one.", clipped(name))
        if name in values:
            raise InvalidRequest(f"'{clipped(name)}' is given more than once.", clipped(name))
        values[name] = value
    try:
        fields = AskForm.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error) from None
    if not fields.question.strip():
        raise InvalidRequest("The question is empty.", "question")
    return fields


async def _pictures(form: FormData) -> list[ImagePart]:
    uploads = form.getlist("image")
    if not uploads:
        raise InvalidRequest("'image' is required: the picture as a file upload.", "image")
    pictures = []
    for index, upload in enumerate(uploads):
        param = "image" if len(uploads) == 1 else f"image[{index}]"
        if not isinstance(upload, UploadFile):
            raise InvalidRequest(f"'{param}' must be a file upload, not text.", param)
        picture = await upload.read()
        if not picture:
            raise ImageRejected(f"'{param}' is empty: the upload has 0 bytes.", param)
        pictures.append(ImagePart(picture, param))
    return pictures


async def _pieces(events: Events, answer_id: str, served: str, record: Record) -> AsyncGenerator[Any, None]:
    texts = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    yield AskDelta(delta="")  # the headers go out with it
                case Delta():
                    texts.append(event.text)
                    yield AskDelta(delta=event.text)
                case Finished():
                    yield _reply(answer_id, served, "".join(texts), event, record)


def _reply(answer_id: str, served: str, text: str, finished: Finished, record: Record) -> AskReply:
    return {
        "id": answer_id,
        "model": served,
        "answer": text,
        "finish_reason": finished.reason,
        "usage": usage_reply(finished.usage),
        "timings": record.timings,
    }
