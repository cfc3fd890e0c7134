"""POST /tokenize: the token ids of a text or a conversation."""

from __future__ import annotations

from dataclasses import replace

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.ingress.body import read_json
from serve_app.ingress.context import ServingContext
from serve_app.ingress.disconnect import run_until_disconnect
from serve_app.ingress.examples import TOKENS
from serve_app.ingress.openapi import error_responses, json_body
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody, tokens_request
from serve_app.ingress.tokenize.response import TokensReply

DESCRIPTION = """Token ids of an unchanged text (`prompt`), or of a conversation through the model's own template
(`messages`, `tools`, `chat_template_kwargs`), with the placeholders of its pictures: exactly the prompt that
/v1/completions or /v1/chat/completions would give to the model. The shape is vLLM's; `image_tokens` is ours.
"""


def tokenize_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(tags=["status"])

    @router.post(
        "/tokenize",
        summary="Count and show a prompt's tokens",
        description=DESCRIPTION,
        response_model=TokensReply,
        responses=error_responses(400, 404, 413, 500, 503, 504),
        openapi_extra=json_body(TextTokensBody, ChatTokensBody, examples=TOKENS),
    )
    async def tokenize(request: Request) -> Response:
        fields = await read_json(request)
        kind: type[ChatTokensBody] | type[TextTokensBody] = ChatTokensBody if "messages" in fields else TextTokensBody
        body = await context.read(kind, fields)
        prompt = tokens_request(body, id=f"tokens-{context.new_id()}", deadline_s=context.deadline_s)
        request_log = request_log_of(request.scope)
        prompt = replace(prompt, caller=request_log.caller)
        tokenized = await run_until_disconnect(request.receive, request_log, context.tokenize(prompt))
        content: TokensReply = {
            "count": len(tokenized.token_ids),
            "max_model_len": tokenized.context_tokens,
            "tokens": list(tokenized.token_ids),
            "image_tokens": tokenized.image_tokens,
        }
        return Response(orjson.dumps(content), media_type="application/json")

    return router
