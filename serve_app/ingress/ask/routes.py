"""POST /v1/ask: pictures, documents and a question as a multipart form, one JSON object or a stream."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.ask.request import FILES, AskUpload, ask_request, read_ask_form, read_files
from serve_app.ingress.ask.response import AskDelta, AskReasoning, AskReply, AskResponder
from serve_app.ingress.body import read_form
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import FORM
from serve_app.ingress.openapi import answer_responses, body, reference
from serve_app.ingress.respond import respond

DESCRIPTION = """A question about pictures and PDFs, sent as `multipart/form-data`. Each page of a PDF is a
picture; `pages` selects some of them.

Streaming (`stream=true`): server-sent events; `data: {"delta": "…"}` for each new text, `data: {"reasoning": "…"}` for
the reasoning before it, and last the same object that a non-streaming answer has, with `answer`, `usage` and `timings`.
An error before the first text has its own HTTP status; a later one is sent as `data: {"error": {...}}` and ends the
stream.
"""


def ask_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/ask",
        summary="Ask a question about uploaded pictures and documents",
        description=DESCRIPTION,
        response_model=AskReply,
        responses=answer_responses(AskDelta, AskReasoning, AskReply, errors=(415,)),
        openapi_extra=body("multipart/form-data", reference(AskUpload), FORM),
    )
    async def ask(request: Request) -> Response:
        upload = await read_form(request, FILES)
        form, files = read_ask_form(upload), await read_files(upload)
        context.check_model(form.model)
        id = f"ask-{context.new_id()}"
        question = ask_request(form, files, id=id, deadline_s=context.deadline_s)
        return await respond(request, context, (question,), AskResponder(id, context.served), id=id)

    return router
