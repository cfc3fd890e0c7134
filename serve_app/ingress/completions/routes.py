"""POST /v1/completions: continues a text, without the chat template; OpenAI's older API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.completions.request import CompletionBody, completion_request
from serve_app.ingress.completions.response import Completion, CompletionResponder
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import COMPLETION
from serve_app.ingress.openapi import answer_responses, json_body
from serve_app.ingress.respond import respond
from serve_app.ingress.sse import DONE

DESCRIPTION = """A text to continue, exactly as it is: no chat template, no pictures, no reasoning, no tools.

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
        body = CompletionBody.read(await read_json(request))
        context.check_model(body.model)
        id = f"cmpl-{context.new_id()}"
        choices = context.choices(completion_request(body, id=id, deadline_s=context.deadline_s), body.n)
        return await respond(request, context, choices, CompletionResponder(context, id, body), id=id)

    return router
