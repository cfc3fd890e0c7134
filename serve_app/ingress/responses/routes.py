"""POST /v1/responses: OpenAI's newer API, streaming or not; answers are kept for a while at most."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import RESPONSE
from serve_app.ingress.openapi import answer_responses, json_body
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.respond import respond
from serve_app.ingress.responses.events import STREAM_EVENTS
from serve_app.ingress.responses.recent_items import RecentItems
from serve_app.ingress.responses.request import ResponseBody, response_request
from serve_app.ingress.responses.response import ResponseReply, ResponsesResponder

DESCRIPTION = """A question about text and pictures, or a conversation, in OpenAI's newer shape. The whole
conversation is sent each time; items of recent answers may be sent as `item_reference`. The output is items:
`reasoning`, `message`, `function_call`.

Streaming: events named by `event:`, numbered by `sequence_number`: `response.created`, `response.in_progress`, then for
each item `response.output_item.added`, its parts and deltas, `response.output_item.done`, and last
`response.completed` or, where the token limit ended the answer, `response.incomplete`. An error before the first
event has its own HTTP status; a later one is sent as `error`, then `response.failed`.

Functions are the only tools; OpenAI's own (web search, files, code, computers) are refused by name.
"""


def response_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])
    recent = RecentItems(context.recent_items_bytes)

    @router.post(
        "/v1/responses",
        summary="Answer with output items",
        description=DESCRIPTION,
        response_model=ResponseReply,
        responses=answer_responses(*STREAM_EVENTS),
        openapi_extra=json_body(ResponseBody, examples=RESPONSE),
    )
    async def create_response(request: Request) -> Response:
        body = await context.read(ResponseBody, await read_json(request))
        id = f"resp_{context.new_id()}"
        tenant = request_log_of(request.scope).caller.tenant
        resolved = body.model_copy(update={"input": recent.resolve(tenant, body.input)})
        question = response_request(resolved, id=id, deadline_s=context.deadline_s)
        responder = ResponsesResponder(context, id, body, recent, tenant)
        return await respond(request, context, (question,), responder, id=id, ignored=body.ignored)

    return router
