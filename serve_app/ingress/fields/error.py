"""The one shape of every failure."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class ErrorDetail(TypedDict):
    """What went wrong: a sentence, OpenAI's type, the field at fault and a stable code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(TypedDict):
    """Every failure, from every route."""

    error: ErrorDetail
