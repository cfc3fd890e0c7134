"""POST /v1/widget/tokens: a short-lived token for the widget on a company's own site."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.access.widget_tokens import WidgetTokens
from serve_app.ingress.body import read_json
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import WIDGET_TOKEN
from serve_app.ingress.openapi import error_responses, json_body
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.widget.request import WidgetTokenBody, check_origin
from serve_app.ingress.widget.response import WidgetTokenReply

DESCRIPTION = """Called by the back end of a site, with a key that has the scope `widget`. The token is accepted for
`/v1/chat/completions` only, from pages of its origin only (the browser's header Origin), until it expires. The widget
gets it from the site; see docs/widget.md.
"""


def widget_routes(context: ServingContext, tokens: WidgetTokens, allowed_origins: tuple[str, ...]) -> APIRouter:
    router = APIRouter(tags=["widget"])

    @router.post(
        "/v1/widget/tokens",
        summary="Issue a token for the widget",
        description=DESCRIPTION,
        response_model=WidgetTokenReply,
        responses=error_responses(400, 413, 500, 503),
        openapi_extra=json_body(WidgetTokenBody, examples=WIDGET_TOKEN),
    )
    async def issue_token(request: Request) -> Response:
        body = await context.read(WidgetTokenBody, await read_json(request))
        check_origin(body.origin, allowed_origins)
        caller = request_log_of(request.scope).caller
        token, expires = tokens.issue(caller, body.origin, body.limits.as_contract(), body.expires_in_s)
        content: WidgetTokenReply = {
            "object": "widget.token",
            "token": token,
            "origin": body.origin,
            "expires_at": expires,
        }
        return Response(orjson.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"})

    return router
