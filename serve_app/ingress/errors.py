"""The one mapping of errors to HTTP: OpenAI's error envelope, and Anthropic's for /v1/messages.

An error that is not a ServiceError becomes a fixed sentence; its traceback is logged under the request's id.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RateLimited, ServiceError
from serve_app.ingress.fields.error import AnthropicErrorReply, ErrorReply
from serve_app.ingress.request_log import CLIENT_CLOSED_REQUEST, RequestLog, request_log_of
from serve_app.ingress.validation import invalid_request, truncate

_log = logging.getLogger("glm.ingress")

ANTHROPIC_PATH: Final = "/v1/messages"
TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def to_service_error(error: Exception, request_log: RequestLog) -> ServiceError:
    """The error as the caller sees it; its code goes into the request log.

    Checked by `isinstance` only: an error that crossed Ray is a subclass of both ours and Ray's.
    """
    if not isinstance(error, ServiceError):
        request_id = request_log.request_id
        _log.error("A request failed with an unexpected error.", exc_info=error, extra={"request_id": request_id})
        error = ServiceError(f"The service failed on this request; its log has the reason under {request_id!r}.")
    elif error.status >= 500:
        _log.warning("%s", error.message, extra={"request_id": request_log.request_id, "code": error.code})
    request_log.code = error.code
    return error


def error_json(error: ServiceError) -> ErrorReply:
    """OpenAI's body."""
    return _envelope(error.status, error.message, error.param, error.code)


def anthropic_error_json(error: ServiceError, request_id: str) -> AnthropicErrorReply:
    """Anthropic's body."""
    return _anthropic_envelope(error.status, error_json(error), request_id)


def has_anthropic_errors(path: str) -> bool:
    """Whether errors of this path have Anthropic's shape."""
    return path == ANTHROPIC_PATH or path.startswith(f"{ANTHROPIC_PATH}/")


def error_body(error: ServiceError, path: str, request_id: str) -> bytes:
    """The JSON of an error in the shape of the API to which the path belongs."""
    return _body(error.status, error_json(error), path, request_id)


def error_response(error: Exception, scope: Scope) -> Response:
    """The response to an error of a request that has a request log."""
    request_log = request_log_of(scope)
    return plain_error_response(to_service_error(error, request_log), scope["path"], request_log.request_id)


def plain_error_response(error: ServiceError, path: str, request_id: str) -> Response:
    """The response to an error; nothing is logged."""
    headers = dict(error.headers) if isinstance(error, RateLimited) else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(error.status, error_body(error, path, request_id), headers)


def _envelope(status: int, message: str, param: str | None, code: str) -> ErrorReply:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic_envelope(status: int, body: ErrorReply, request_id: str) -> AnthropicErrorReply:
    kind = "request_too_large" if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else body["error"]["type"]
    kind = "api_error" if kind == "server_error" else kind
    return {"type": "error", "error": {**body["error"], "type": kind}, "request_id": request_id}


def _body(status: int, body: ErrorReply, path: str, request_id: str) -> bytes:
    return orjson.dumps(_anthropic_envelope(status, body, request_id) if has_anthropic_errors(path) else body)


def _response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


# -- FastAPI's exception handlers -----------------------------------------------------------------


async def _on_service_error(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_request(error.errors()), request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: unknown route, wrong method, a broken form."""
    assert isinstance(error, HTTPException)
    request_line = f"{request.method} {truncate(request.url.path)}"
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            code, message = "not_found", f"There is no {request_line} here; /docs lists the routes."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "another method")
            code, message = "method_not_allowed", f"{request_line} is not possible; {request.url.path} takes {allowed}."
        case HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            code, message = "unsupported_media_type", str(error.detail)
        case status if status < 500:
            code, message = "invalid_request", str(error.detail)
        case _:
            code, message = "internal_error", str(error.detail)
    request_log = request_log_of(request.scope)
    request_log.code = code
    status, path = error.status_code, request.scope["path"]
    body = _body(status, _envelope(status, message, None, code), path, request_log.request_id)
    return _response(status, body, error.headers)


async def _on_client_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # the client is gone; servers require a response


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ServiceError: _on_service_error,
    RequestValidationError: _on_validation_error,
    HTTPException: _on_http_exception,
    ClientDisconnect: _on_client_disconnect,
}


class UnhandledErrorMiddleware:
    """Responds to errors that no handler knows with a 500 in the same envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except ClientDisconnect:
            request_log_of(scope).disconnected = True
        except Exception as error:
            response = error_response(error, scope)
            if started:  # too late for a status; the client sees a broken connection
                raise
            await response(scope, receive, send)
