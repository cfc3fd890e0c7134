"""The one mapping of errors to HTTP: OpenAI's error envelope from every route.

An error that is not a ServiceError becomes a fixed sentence; its traceback is logged under the request's id.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RateLimited, ServiceError
from serve_app.ingress.fields.error import ErrorReply
from serve_app.ingress.request_log import CLIENT_CLOSED_REQUEST, RequestLog, request_log_of
from serve_app.ingress.validation import invalid_request, truncate

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
    return _envelope(error.status, error.message, error.param, error.code)


def error_response(error: Exception, request_log: RequestLog) -> Response:
    return plain_error_response(to_service_error(error, request_log))


def plain_error_response(error: ServiceError) -> Response:
    """The response to an error; nothing is logged."""
    headers = dict(error.headers) if isinstance(error, RateLimited) else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(error.status, error_json(error), headers)


def _envelope(status: int, message: str, param: str | None, code: str) -> ErrorReply:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _response(status: int, body: ErrorReply, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


# -- FastAPI's exception handlers -----------------------------------------------------------------


async def _on_service_error(request: Request, error: Exception) -> Response:
    return error_response(error, request_log_of(request.scope))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_request(error.errors()), request_log_of(request.scope))


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
    request_log_of(request.scope).code = code
    return _response(error.status_code, _envelope(error.status_code, message, None, code), error.headers)


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
            response = error_response(error, request_log_of(scope))
            if started:  # too late for a status; the client sees a broken connection
                raise
            await response(scope, receive, send)
