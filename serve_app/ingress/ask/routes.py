"""POST /v1/ask: pictures and a question as a multipart form, one JSON answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Numbered, answers
from serve_app.contracts import ChatRequest, Delta, ImagePart, Message, Sampling, Started, TextPart
from serve_app.errors import ImageRejected, InvalidRequest
from serve_app.ingress.ask.response import AskDelta, AskReasoning, AskReply
from serve_app.ingress.body import read_form
from serve_app.ingress.context import Door
from serve_app.ingress.disconnect import while_present
from serve_app.ingress.errors import clipped, invalid_fields
from serve_app.ingress.examples import FORM
from serve_app.ingress.fields.sampling import TokenCount
from serve_app.ingress.fields.usage import boxed_replies, image_replies, usage_reply
from serve_app.ingress.openapi import answers_documented, reference
from serve_app.ingress.request_log import Record, record_of
from serve_app.ingress.respond import Gathered, gathered, json_reply
from serve_app.ingress.sse import EventStream

DESCRIPTION = """A question about one picture or several, sent as `multipart/form-data`.

Streamed (`stream=true`): server-sent events; `data: {"delta": "…"}` for each new text, `data: {"reasoning": "…"}` for
what the model thinks before, and last the same object that a whole answer has, with `answer`, `usage` and `timings`. A
failure before the first text has its own HTTP status; a later one is told as `data: {"error": {...}}` and ends the
stream.
"""


def _without_null(schema: dict[str, Any]) -> None:
    """A field of a form may be missing but never null."""
    for field in schema["properties"].values():
        if "anyOf" in field:
            field.update(field.pop("anyOf")[0])
            del field["default"]


def _spelt(field: dict[str, Any]) -> None:
    """How a form says yes and no."""
    del field["type"]
    field["enum"] = [True, False, "true", "false", "1", "0", "on", "off", "yes", "no"]


class AskForm(BaseModel):
    """The fields of the form besides the pictures; a form holds text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_without_null)

    question: str = Field(json_schema_extra={"pattern": r"\S"})
    stream: bool = Field(False, json_schema_extra=_spelt)
    max_tokens: TokenCount | None = Field(None, description="Most tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Left out: 1.")
    model: str | None = Field(None, description="Left out: the served model.")


class AskUpload(AskForm):
    """The whole form, as the OpenAPI document shows it."""

    image: list[bytes] = Field(
        min_length=1,
        description="One picture or several, each its own part named `image`.",
        json_schema_extra={"items": {"contentMediaType": "application/octet-stream", "minLength": 1}},
    )


def ask_routes(door: Door) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/ask",
        summary="Ask a question about uploaded pictures",
        description=DESCRIPTION,
        response_model=AskReply,
        responses=answers_documented(AskDelta, AskReasoning, AskReply, errors=(415,)),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": reference(AskUpload), "examples": FORM}},
            }
        },
    )
    async def ask(request: Request) -> Response:
        record = record_of(request.scope)
        form = await read_form(request)
        fields, pictures = _fields(form), await _pictures(form)
        door.check_model(fields.model)
        asked = ChatRequest(
            id=f"ask-{door.new_id()}",
            messages=(Message("user", (*pictures, TextPart(fields.question)), param="question"),),
            param="question",
            sampling=_sampling(fields),
            deadline_s=door.deadline_s,
            stream=fields.stream,
        )
        record.answer_id = asked.id
        events = answers(door.answer, (asked,), record)
        if fields.stream:
            return EventStream(_pieces(events, asked.id, door.served, record), record)
        (whole,) = await while_present(request.receive, record, gathered(events, 1))
        return json_reply(_reply(asked.id, door.served, whole, record), record)

    return router


def _sampling(fields: AskForm) -> Sampling:
    if fields.temperature is None:
        return Sampling(fields.max_tokens)
    return Sampling(fields.max_tokens, fields.temperature)


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


async def _pieces(events: Numbered, answer_id: str, served: str, record: Record) -> AsyncGenerator[Any, None]:
    whole = Gathered()
    async with aclosing(events):
        async for _, event in events:
            whole.add(event)
            match event:
                case Started():
                    yield AskDelta(delta="")  # the headers go out with it
                case Delta(channel="reasoning"):
                    yield AskReasoning(reasoning=event.text)
                case Delta():
                    yield AskDelta(delta=event.text)
    yield _reply(answer_id, served, whole, record)


def _reply(answer_id: str, served: str, whole: Gathered, record: Record) -> AskReply:
    reply: AskReply = {
        "id": answer_id,
        "model": served,
        "answer": whole.text,
        "finish_reason": whole.end.reason,
        "usage": usage_reply(whole.end.usage),
        "timings": record.timings,
    }
    if whole.reasonings:
        reply["reasoning"] = whole.reasoning
    if whole.end.boxed:
        reply["boxes"] = boxed_replies(whole.end.boxed)
    if record.pictures:
        reply["images"] = image_replies(record.pictures)
    return reply
