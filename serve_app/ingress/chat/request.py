"""The request of /v1/chat/completions: OpenAI's, with the additions of vLLM, SGLang and z.ai."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.messages import Messages, parse_messages
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, sampling, single_max_tokens
from serve_app.ingress.fields.stream_options import StreamFields, check_stream_options
from serve_app.ingress.fields.strict_model import IGNORED, IgnoredFields, RequestBody, UnsupportedField
from serve_app.ingress.fields.structured_output import ConstraintFields, constraint
from serve_app.ingress.fields.thinking import ThinkingFields, thinking
from serve_app.ingress.fields.tools import ToolFields, tool_use


class ChatBody(RequestBody, StreamFields, ConstraintFields, ToolFields, ThinkingFields, SamplingFields, IgnoredFields):
    """A conversation whose last message is a question of the user, or a tool's result."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "audio": UnsupportedField(),
        "function_call": UnsupportedField(("none", "auto"), "Use 'tool_choice'."),
        "functions": UnsupportedField(([],), "Use 'tools'."),
        "modalities": UnsupportedField((["text"],)),
        "moderation": UnsupportedField(),
        "prediction": UnsupportedField(),
        "verbosity": UnsupportedField(("medium",)),
        "web_search_options": UnsupportedField(),
    }

    messages: Messages
    max_tokens: TokenCount | None = Field(
        None, description="Maximum number of tokens of the answer, reasoning included."
    )
    max_completion_tokens: TokenCount | None = Field(None, description="OpenAI's newer name of max_tokens.")
    logprobs: bool | None = Field(
        None, description="The log probability of each token of the text; reasoning and tool calls have none."
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of likeliest tokens returned beside each one; needs `logprobs`.",
    )
    metadata: dict[str, Any] | None = Field(None, description=IGNORED)


def chat_request(body: ChatBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    check_stream_options(body.stream, body.stream_options)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("'top_logprobs' is only for a request with 'logprobs': true.", "top_logprobs")
    limit = single_max_tokens(body.max_tokens, body.max_completion_tokens)
    return ChatRequest(
        id,
        parse_messages(body.messages),
        sampling(body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        deadline_s,
        bool(body.stream),
        tool_use(body),
        constraint(body),
        thinking(body),
    )
