"""The request of /v1/ask: a multipart form of pictures and documents, a question and a few settings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from serve_app.contracts import ChatRequest, ImagePart, Message, Sampling, TextPart
from serve_app.errors import ImageRejected, InvalidRequest
from serve_app.ingress.fields.files import parse_pages
from serve_app.ingress.fields.sampling import TokenCount, temperature
from serve_app.ingress.validation import invalid_fields, truncate

FILES: Final = ("image", "file")  # the fields of uploads


def _remove_null(schema: dict[str, Any]) -> None:
    """A field of a form may be missing but never null."""
    for field in schema["properties"].values():
        if "anyOf" in field:
            field.update(field.pop("anyOf")[0])
            del field["default"]


def _form_boolean(field: dict[str, Any]) -> None:
    """The spellings of a boolean in a form."""
    del field["type"]
    field["enum"] = [True, False, "true", "false", "1", "0", "on", "off", "yes", "no"]


class AskForm(BaseModel):
    """The fields of the form besides the pictures; a form holds text, so numbers are parsed from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_remove_null)

    question: str = Field(json_schema_extra={"pattern": r"\S"})
    stream: bool = Field(False, json_schema_extra=_form_boolean)
    max_tokens: TokenCount | None = Field(None, description="Maximum number of tokens of the answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Default: 1.")
    model: str | None = Field(None, description="Default: the served model.")


class AskUpload(AskForm):
    """The complete form, as the OpenAPI document shows it."""

    image: list[bytes] = Field(
        min_length=1,
        description="One picture or PDF or several, each its own part named `image`.",
        json_schema_extra={"items": {"contentMediaType": "application/octet-stream", "minLength": 1}},
    )
    file: list[bytes] = Field(
        [],
        description="The same under another name; together with `image` or instead of it.",
        json_schema_extra={"items": {"contentMediaType": "application/octet-stream", "minLength": 1}},
    )
    pages: list[str] = Field(
        [],
        description="Pages of a PDF, such as `1-3,7` or `5-`; default: all. With several files one field for each, in"
        " their order, which is empty for all pages and for a picture.",
    )


def read_ask_form(form: FormData) -> AskForm:
    """The validated fields besides files and pages; raises InvalidRequest that names the field."""
    values: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in (*FILES, "pages"):
            continue
        if isinstance(value, UploadFile):
            raise InvalidRequest(f"'{truncate(name)}' is a file; only 'image' and 'file' may be one.", truncate(name))
        if not value and name != "question":  # a form can't leave out a field that nobody filled in
            continue
        if name in values:
            raise InvalidRequest(f"'{truncate(name)}' is given more than once.", truncate(name))
        values[name] = value
    try:
        form_fields = AskForm.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error) from None
    if not form_fields.question.strip():  # a chat may consist of a picture; this route asks a question
        raise InvalidRequest("'question' is empty. Ask something about the picture.", "question")
    return form_fields


async def read_files(form: FormData) -> list[ImagePart]:
    """The pictures and documents in their order, with the pages that are asked for; raises InvalidRequest."""
    uploads = [(name, value) for name, value in form.multi_items() if name in FILES and not _is_unfilled(value)]
    if not uploads:
        raise InvalidRequest("'image' is required: a picture or a PDF as a file upload.", "image")
    texts = form.getlist("pages")
    if len(texts) not in (0, len(uploads)):
        raise InvalidRequest(
            f"The form has {len(uploads)} files and pictures, but {len(texts)} fields 'pages'. Give one for each, in"
            " their order; an empty one means all pages.",
            "pages",
        )
    files: list[ImagePart] = []
    totals, numbers = Counter(name for name, _ in uploads), dict.fromkeys(FILES, 0)
    for index, (name, upload) in enumerate(uploads):
        param = _indexed(name, numbers[name], totals[name])
        numbers[name] += 1
        if not isinstance(upload, UploadFile):
            raise InvalidRequest(f"'{param}' must be a file upload, not text.", param)
        content = await upload.read()
        if not content:
            raise ImageRejected(f"'{param}' is empty: the upload has 0 bytes.", param)
        pages = texts[index] if texts else None
        pages_param = _indexed("pages", index, len(texts))
        if isinstance(pages, UploadFile):
            raise InvalidRequest(f"'{pages_param}' must be text, not a file.", pages_param)
        noun: Literal["Picture", "File"] = "Picture" if name == "image" else "File"
        files.append(ImagePart(content, param, pages=parse_pages(pages, pages_param), noun=noun))
    return files


def _is_unfilled(value: UploadFile | str) -> bool:
    """Whether a browser sent this for a file input without a file: no name and no bytes (HTML, section 4.10.21.4)."""
    return not (value.filename or value.size) if isinstance(value, UploadFile) else not value


def _indexed(name: str, index: int, number: int) -> str:
    """The name of one of several fields of the same name."""
    return name if number == 1 else f"{name}[{index}]"


def ask_request(form: AskForm, files: list[ImagePart], *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline: one user message, its files before the question."""
    message = Message("user", (*files, TextPart(form.question)), param="question")
    sampling = Sampling(form.max_tokens)
    if form.temperature is not None:
        sampling = replace(sampling, temperature=temperature(form.temperature))
    return ChatRequest(id, (message,), sampling, deadline_s, form.stream, param="question")
