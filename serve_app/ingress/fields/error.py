"""The JSON of error responses: OpenAI's envelope, and Anthropic's for /v1/messages."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class ErrorDetail(TypedDict):
    """The error: a sentence, OpenAI's type, the request field it is about and a stable code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    """Every error of every route but /v1/messages."""

    error: ErrorDetail


class AnthropicErrorReply(TypedDict):
    """Every error of /v1/messages; `param` and `code` of OpenAI's are kept beside Anthropic's type and message."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str
