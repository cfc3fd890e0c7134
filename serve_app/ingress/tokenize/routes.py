"""POST /tokenize: a text or a conversation as the model would read it."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve_app.contracts import ChatRequest, Tokenized
from serve_app.ingress.body import read_json
from serve_app.ingress.context import Door
from serve_app.ingress.disconnect import while_present
from serve_app.ingress.examples import TOKENS
from serve_app.ingress.openapi import errors_documented, json_body
from serve_app.ingress.request_log import record_of
from serve_app.ingress.status.response import TokensReply
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody, tokens_body, tokens_request

DESCRIPTION = """Token ids of a text as it stands (`prompt`), or of a conversation through the model's own template
(`messages`, `tools`, `chat_template_kwargs`), with the placeholders of its pictures: exactly the prompt that
/v1/completions or /v1/chat/completions would make of it. The shape is vLLM's; `image_tokens` is ours.
"""


def token_routes(door: Door) -> APIRouter:
    router = APIRouter(tags=["status"])

    @router.post(
        "/tokenize",
        summary="Count and show a prompt's tokens",
        description=DESCRIPTION,
        response_model=TokensReply,
        responses=errors_documented(400, 404, 413, 500, 503, 504),
        openapi_extra=json_body(TextTokensBody, ChatTokensBody, examples=TOKENS),
    )
    async def tokenize(request: Request) -> Response:
        body = tokens_body(await read_json(request))
        door.check_model(body.model)
        asked = tokens_request(body, id=f"tokens-{door.new_id()}", deadline_s=door.deadline_s)
        tokenized = await while_present(request.receive, record_of(request.scope), _tokenized(door, asked))
        reply: TokensReply = {
            "count": len(tokenized.token_ids),
            "max_model_len": tokenized.context_tokens,
            "tokens": list(tokenized.token_ids),
            "image_tokens": tokenized.image_tokens,
        }
        return Response(orjson.dumps(reply), media_type="application/json")

    return router


async def _tokenized(door: Door, asked: ChatRequest) -> Tokenized:
    return await door.tokenize(asked)
