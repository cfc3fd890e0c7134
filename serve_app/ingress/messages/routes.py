"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API, streaming or not; nothing is stored."""

from __future__ import annotations

from dataclasses import replace

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.context import ServingContext
from serve_app.ingress.disconnect import run_until_disconnect
from serve_app.ingress.examples import MESSAGES
from serve_app.ingress.fields.error import AnthropicErrorReply
from serve_app.ingress.messages.request import MessagesBody, messages_request
from serve_app.ingress.messages.response import MessageEvent, MessageReply, MessagesResponder, TokensCount
from serve_app.ingress.openapi import answer_responses, error_responses, json_body
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.respond import respond

DESCRIPTION = """A conversation with texts, pictures and documents in Anthropic's shape. Content is blocks: `text`,
`image`, `document` (PDF or text), `tool_use`, `tool_result`, `thinking`; the answer has `thinking`, `text` and
`tool_use`. Tools of the caller are the only ones.

Streaming: events named by `event:`: `message_start`, `ping`, for each block `content_block_start`, its deltas and
`content_block_stop`, then `message_delta` with the `stop_reason` and the usage, and `message_stop`. An error before the
first event has its own HTTP status; a later one is sent as `error`.

The headers `x-api-key` and `anthropic-version` are accepted; no version changes anything. The `signature` of
reasoning is a constant.
"""


def messages_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["answers"])

    @router.post(
        "/v1/messages",
        summary="Answer a conversation in Anthropic's shape",
        description=DESCRIPTION,
        response_model=MessageReply,
        responses=answer_responses(MessageEvent, error=AnthropicErrorReply),
        openapi_extra=json_body(MessagesBody, examples=MESSAGES),
    )
    async def create_message(request: Request) -> Response:
        body = await context.read(MessagesBody, await read_json(request))
        id = f"msg_{context.new_id()}"
        question = messages_request(body, id=id, deadline_s=context.deadline_s)
        responder = MessagesResponder(context, id, request_log_of(request.scope).request_id)
        return await respond(request, context, (question,), responder, id=id, ignored=body.ignored)

    @router.post(
        "/v1/messages/count_tokens",
        summary="Count the tokens of a conversation in Anthropic's shape",
        response_model=TokensCount,
        responses=error_responses(400, 404, 413, 429, 500, 503, 504, error=AnthropicErrorReply),
        openapi_extra=json_body(MessagesBody, examples={"picture": MESSAGES["picture"]}),
    )
    async def count_tokens(request: Request) -> Response:
        body = await context.read(MessagesBody, await read_json(request))
        request_log = request_log_of(request.scope)
        prompt = messages_request(body, id=f"tokens-{context.new_id()}", deadline_s=context.deadline_s)
        prompt = replace(prompt, caller=request_log.caller)
        tokenized = await run_until_disconnect(request.receive, request_log, context.tokenize(prompt))
        return Response(orjson.dumps(TokensCount(input_tokens=len(tokenized.token_ids))), media_type="application/json")

    return router
