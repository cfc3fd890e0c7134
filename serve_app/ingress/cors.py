"""CORS: which pages of other origins may read responses; a refused preflight carries no permission."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from serve_app.errors import Forbidden
from serve_app.ingress.errors import plain_error_response
from serve_app.ingress.validation import truncate


class CorsMiddleware(CORSMiddleware):
    """Starlette's, except that its refusals would list the methods and headers that other origins may use."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        reason = (
            f"A page of {truncate(origin)!r} may not send {truncate(method)!r} to this service. Pages of the origins in"
            f" the setting http.allowed_origins may use {' and '.join(self.allow_methods)}."
        )
        if self.is_allowed_origin(origin) and method in self.allow_methods:
            reason = (
                f"A page of {truncate(origin)!r} may not use this service from a public network while the setting"
                " http.allowed_origins is '*'. Add the origin itself to the setting."
            )
        refused = plain_error_response(
            Forbidden(reason),
            path="",  # browsers show no page the body of a preflight
            request_id="",
        )
        refused.headers["Vary"] = self.preflight_headers["Vary"]
        return refused
