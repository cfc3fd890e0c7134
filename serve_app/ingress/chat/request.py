"""What /v1/chat/completions takes: OpenAI's request, with what vLLM, SGLang and z.ai added to it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.messages import Messages, conversation
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, one_limit, sampling
from serve_app.ingress.fields.stream_options import DeliveryFields, check_delivery
from serve_app.ingress.fields.strict_model import IGNORED, Body, Hints, Refused
from serve_app.ingress.fields.structured_output import ConstraintFields, constraint
from serve_app.ingress.fields.thinking import ThinkingFields, thinking
from serve_app.ingress.fields.tools import ToolFields, tool_use


class ChatBody(Body, DeliveryFields, ConstraintFields, ToolFields, ThinkingFields, SamplingFields, Hints):
    """A conversation whose last message is a question of the user, or a tool's result."""

    refused: ClassVar[dict[str, Refused]] = {
        "audio": Refused(),
        "function_call": Refused(("none", "auto"), "Use 'tool_choice'."),
        "functions": Refused(([],), "Use 'tools'."),
        "modalities": Refused((["text"],)),
        "moderation": Refused(),
        "prediction": Refused(),
        "verbosity": Refused(("medium",)),
        "web_search_options": Refused(),
    }

    messages: Messages
    max_tokens: TokenCount | None = Field(None, description="Most tokens of the answer, reasoning included.")
    max_completion_tokens: TokenCount | None = Field(None, description="OpenAI's newer name of max_tokens.")
    logprobs: bool | None = Field(
        None, description="How likely the model found each token of the text; reasoning and calls have none."
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens told beside each one; needs `logprobs`."
    )
    metadata: dict[str, Any] | None = Field(None, description=IGNORED)


def chat_request(body: ChatBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    check_delivery(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' is only for a request with 'logprobs': true.", "top_logprobs")
    limit = one_limit(body.max_tokens, body.max_completion_tokens)
    return ChatRequest(
        id,
        conversation(body.messages),
        sampling(body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        deadline_s,
        bool(body.stream),
        tool_use(body),
        constraint(body),
        thinking(body),
    )
