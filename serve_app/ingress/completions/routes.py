"""POST /v1/completions: continues a text, without the chat template; OpenAI's older API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.completions.request import CompletionBody, completion_requests
from serve_app.ingress.completions.response import Completion, CompletionResponder
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import COMPLETION
from serve_app.ingress.openapi import answer_responses, json_body
from serve_app.ingress.respond import respond
from serve_app.ingress.sse import DONE

DESCRIPTION = """Texts to continue, exactly as they are: no chat template, no pictures, no reasoning, no tools.

Streaming: `data:` lines of the same shape, each with new text; with `stream_options.include_usage` one with the usage
and no choices; then `[DONE]`. For questions, use /v1/chat/completions.
"""


def completion_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/completions",
        summary="Continue a text",
        description=DESCRIPTION,
        response_model=Completion,
        responses=answer_responses(Completion, last=DONE),
        openapi_extra=json_body(CompletionBody, examples=COMPLETION),
    )
    async def create_completion(request: Request) -> Response:
        body = await context.read(CompletionBody, await read_json(request))
        id = f"cmpl-{context.new_id()}"
        requests = completion_requests(body, id=id, deadline_s=context.deadline_s)
        choices = [choice for each in requests for choice in context.choices(each, body.n)]
        responder = CompletionResponder(context, id, body)
        return await respond(request, context, choices, responder, id=id, ignored=body.ignored)

    return router
