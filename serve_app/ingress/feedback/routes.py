"""POST /v1/feedback: whether an answer was right; a wrong one leaves the answer cache."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.cache.feedback import Feedback
from serve_app.ingress.body import read_json
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import FEEDBACK
from serve_app.ingress.feedback.request import FeedbackBody
from serve_app.ingress.feedback.response import FeedbackReply
from serve_app.ingress.openapi import error_responses, json_body
from serve_app.ingress.request_log import request_log_of

DESCRIPTION = """Says whether an answer was right. With `down`, the kept answer is removed from the answer cache, and an
identical question is answered by the model for a day; callers can rate answers of their own tenant only. Where the
service has a file for it (`cache.candidates_file`), question, answer and comment are kept as a candidate for tests.
"""


def feedback_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/feedback",
        summary="Rate an answer",
        description=DESCRIPTION,
        response_model=FeedbackReply,
        responses=error_responses(400, 404, 413, 500, 503),
        openapi_extra=json_body(FeedbackBody, examples=FEEDBACK),
    )
    async def give_feedback(request: Request) -> Response:
        body = await context.read(FeedbackBody, await read_json(request))
        request_log = request_log_of(request.scope)
        if request_log.audit is not None:
            request_log.audit.rated(body.id, body.rating, body.comment or "")
        removed = await context.feedback(Feedback(body.id, body.rating, body.comment or "", request_log.caller.tenant))
        content: FeedbackReply = {"id": body.id, "rating": body.rating, "removed": removed}
        return Response(orjson.dumps(content), media_type="application/json")

    return router
