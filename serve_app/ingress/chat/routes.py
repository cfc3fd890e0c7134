"""POST /v1/chat/completions: OpenAI's chat, streaming or not."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.chat.request import ChatBody, chat_request
from serve_app.ingress.chat.response import ChatCompletion, ChatCompletionChunk, ChatResponder
from serve_app.ingress.context import ServingContext
from serve_app.ingress.examples import CHAT
from serve_app.ingress.openapi import answer_responses, json_body
from serve_app.ingress.respond import respond
from serve_app.ingress.sse import DONE

DESCRIPTION = """A conversation with pictures, answered with one JSON object or as server-sent events.

Streaming: one `data:` line for each chunk: first the role, then reasoning, text and tool calls as they are generated, a
chunk with the `finish_reason` for each answer, with `stream_options.include_usage` one with the usage and no choices,
then `[DONE]`. Chunks of several answers (`n`) are interleaved; `index` is the answer's. An error before the first
chunk or comment has its own HTTP status; a later one is sent as `data: {"error": {...}}` before `[DONE]`. A stream
without news for 15 seconds (`http.keep_alive_s`) begins or goes on with a comment line, so that proxies keep it open.

A last message of the assistant is continued (prefill): the answer is what comes after its text.

`finish_reason` is `tool_calls` whenever the answer calls tools, also where `tool_choice` names the function: loops
that run tools depend on it, and OpenAI's reference defines it so.

`images` describes each picture: its size as uploaded, upright, and the size that the model saw. `boxes` are regions
that the model marked, in thousandths and in the uploaded picture's own pixels.

Fields described as "Accepted and ignored" have no effect. Any field that is not listed is refused by name unless it
is null, or the service has `http.unknown_fields: ignore`; the header X-Ignored-Fields then has the names. `max_tokens`
above what is left of the context is lowered to that, and the header X-Max-Tokens has the limit in force.
"""


def chat_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/chat/completions",
        summary="Answer a conversation",
        description=DESCRIPTION,
        response_model=ChatCompletion,
        responses=answer_responses(ChatCompletionChunk, last=DONE),
        openapi_extra=json_body(ChatBody, examples=CHAT),
    )
    async def create_chat_completion(request: Request) -> Response:
        body = await context.read(ChatBody, await read_json(request))
        id = f"chatcmpl-{context.new_id()}"
        choices = context.choices(chat_request(body, id=id, deadline_s=context.deadline_s), body.n)
        responder = ChatResponder(context, id, body)
        return await respond(request, context, choices, responder, id=id, ignored=body.ignored)

    return router
