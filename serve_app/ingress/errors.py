"""The one mapping of failures to HTTP: OpenAI's error envelope from every route.

A failure that is not ours is told as a fixed sentence; its traceback goes to the log under the
request's id and nowhere else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import InvalidRequest, ServiceError
from serve_app.ingress.fields.error import ErrorReply
from serve_app.ingress.request_log import CALLER_GONE, Record, record_of

_log = logging.getLogger("glm.ingress")

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
MAX_NAMED = 100  # characters of a caller's own text that a message repeats


def envelope(status: int, message: str, param: str | None, code: str) -> ErrorReply:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def told(error: Exception, record: Record) -> ServiceError:
    """The error as its caller may know it; notes its code in the record.

    Known by `isinstance` only: an error that crossed Ray is a subclass of ours and of Ray's own.
    """
    if not isinstance(error, ServiceError):
        _log.error("A request failed in a way nobody foresaw.", exc_info=error, extra={"request_id": record.request_id})
        error = ServiceError(f"The service failed on this request; its log says why under {record.request_id!r}.")
    elif error.status >= 500:
        _log.warning("%s", error.message, extra={"request_id": record.request_id, "code": error.code})
    record.code = error.code
    return error


def error_reply(error: ServiceError) -> ErrorReply:
    return envelope(error.status, error.message, error.param, error.code)


def _response(status: int, reply: ErrorReply, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(reply), status, headers, media_type="application/json")


def problem_response(error: Exception, record: Record) -> Response:
    known = told(error, record)
    headers = {}
    if known.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(known.retry_after_s)))
    return _response(known.status, error_reply(known), headers)


# -- what FastAPI's exception table points at -----------------------------------------------------


async def _on_service_error(request: Request, error: Exception) -> Response:
    return problem_response(error, record_of(request.scope))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(invalid_request(error.errors()), record_of(request.scope))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself: no such route, wrong method, a broken form."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {clipped(request.url.path)}"
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            code, message = "not_found", f"There is no {asked} here; /docs shows what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            code, message = "method_not_allowed", f"{asked} is not possible; {request.url.path} takes {allowed}."
        case HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            code, message = "unsupported_media_type", str(error.detail)
        case status if status < 500:
            code, message = "invalid_request", str(error.detail)
        case _:
            code, message = "internal_error", str(error.detail)
    record_of(request.scope).code = code
    return _response(error.status_code, envelope(error.status_code, message, None, code), error.headers)


async def _on_caller_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CALLER_GONE)  # nobody reads it; servers want every request answered


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ServiceError: _on_service_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_caller_gone,
}


class Unforeseen:
    """Answers what no handler knows with a 500 in the same envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:
            response = problem_response(error, record_of(scope))
            if begun:  # too late for a status; a torn connection tells the caller
                raise
            await response(scope, receive, send)


# -- pydantic's findings as one sentence --------------------------------------------------------

# Fields of several types, and lists of them: pydantic puts the name of the type it chose after the field or index.
_UNIONS = ("response_format", "format", "tool_choice")
_LISTS_OF_UNIONS = ("messages", "content", "input", "output")

_SENTENCES = {
    "missing": "{param} is required.",
    "extra_forbidden": "{param} is not a field of this request.",
    "union_tag_not_found": "{param} is required.",
    "none_required": "{param} is not supported; leave it out.",
    "model_type": "{param} must be an object.",
    "model_attributes_type": "{param} must be an object.",
    "dict_type": "{param} must be an object.",
    "list_type": "{param} must be a list.",
    "too_short": "{param} must have {min_length} or more entries, not {actual_length}.",
    "too_long": "{param} may have {max_length} entries at most.",
    "string_too_short": "{param} must have {min_length} or more characters.",
    "string_too_long": "{param} may have {max_length} characters at most.",
    "string_pattern_mismatch": "{param} must match {pattern}.",
}


def invalid_fields(error: ValidationError) -> InvalidRequest:
    return invalid_request(error.errors(include_url=False))


def invalid_request(findings: Sequence[Any]) -> InvalidRequest:
    """The first finding as a sentence, with its place as the `param`; the others only counted."""
    finding = findings[0]
    param = clipped(_path(finding["loc"]), 2 * MAX_NAMED)
    context: dict[str, Any] = finding.get("ctx", {})
    kind: str = finding["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        param = f"{param}.{_discriminator(context)}"
    name = f"'{param}'" if param else "The body"
    if kind == "union_tag_invalid":
        message = f"{name} is '{clipped(context['tag'])}'; supported here: {context['expected_tags']}."
    elif kind in _SENTENCES:
        message = _SENTENCES[kind].format(param=name, **context)
    else:
        rule = finding["msg"].removeprefix("Value error, ")
        message = f"{name} {rule}" if rule.startswith("must") else f"{name}: {rule}"
        message = message.replace(": Input should", " must", 1)
        given = finding.get("input")
        if (isinstance(given, int | float) and not isinstance(given, bool)) or kind == "literal_error":
            message += f", not {clipped(repr(given))}"
        message += "."
    if len(findings) > 1:
        message += f" ({len(findings) - 1} more to mend.)"
    return InvalidRequest(message, param or None)


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for place, step in enumerate(location):
        if place == 0 and step == "body":
            continue
        if isinstance(step, int):
            path += f"[{step}]"
        elif step == "[key]" or _is_type(location, place):
            continue  # not a field
        else:
            path += f".{step}" if path else step
    return path


def _is_type(location: Sequence[str | int], place: int) -> bool:
    before = location[place - 1] if place else None
    if isinstance(before, int):
        return place >= 2 and location[place - 2] in _LISTS_OF_UNIONS
    return before in _UNIONS


def _discriminator(context: dict[str, Any]) -> str:
    """The field that decides between types; one that a function looks at is always `type`."""
    name: str = context["discriminator"].strip("'")
    return "type" if name.endswith("()") else name


def clipped(text: str, length: int = MAX_NAMED) -> str:
    """A caller's own text, short enough to be repeated to him."""
    return text if len(text) <= length else f"{text[:length]}…"
