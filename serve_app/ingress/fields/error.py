"""The JSON of every error response: OpenAI's envelope."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class ErrorDetail(TypedDict):
    """The error: a sentence, OpenAI's type, the request field it is about and a stable code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    """Every error, from every route."""

    error: ErrorDetail
