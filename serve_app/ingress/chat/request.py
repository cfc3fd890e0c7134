"""The request of /v1/chat/completions: OpenAI's, with the additions of vLLM, SGLang and z.ai."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.conversation import continues_last, parse_messages
from serve_app.ingress.fields.lane import LaneFields, lane
from serve_app.ingress.fields.messages import AssistantMessage, Messages
from serve_app.ingress.fields.other_servers import UNSUPPORTED_ELSEWHERE, UNSUPPORTED_TEMPLATE, IgnoredFields
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenLimit, sampling, single_max_tokens
from serve_app.ingress.fields.stream_options import StreamFields
from serve_app.ingress.fields.strict_model import IGNORED, Integer, RequestBody, Switch, TextSwitch, UnsupportedField
from serve_app.ingress.fields.structured_output import ConstraintFields, constraint
from serve_app.ingress.fields.thinking import ThinkingFields, thinking
from serve_app.ingress.fields.tools import ToolFields, tool_use

EFFORT_HINT: Final = "Use 'reasoning_effort' or 'enable_thinking'."
CONTINUE: Final = (
    "Whether the answer goes on from the last message, which then is the assistant's; it has only what is new. "
    "Default: true where that message is the assistant's and there is no format. (vLLM's)"
)


class ChatBody(
    RequestBody, StreamFields, ConstraintFields, ToolFields, ThinkingFields, SamplingFields, LaneFields, IgnoredFields
):
    """A conversation: the answer to its last message, or the rest of a last message of the assistant."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        **UNSUPPORTED_ELSEWHERE,
        **UNSUPPORTED_TEMPLATE,
        "audio": UnsupportedField(),
        "function_call": UnsupportedField(("none", "auto"), "Use 'tool_choice'."),
        "functions": UnsupportedField(([],), "Use 'tools'."),
        "modalities": UnsupportedField((["text"], [])),
        "moderation": UnsupportedField(),
        "prediction": UnsupportedField(),
        "reasoning": UnsupportedField(({},), EFFORT_HINT),
        "think": UnsupportedField((), "Use 'enable_thinking'."),
        "verbosity": UnsupportedField(("medium",)),
        "web_search_options": UnsupportedField(),
    }

    messages: Messages = Field(description="The conversation, oldest message first.")
    max_tokens: TokenLimit = Field(
        None, description="Maximum number of tokens of the answer, reasoning included. -1: as many as the context has."
    )
    max_completion_tokens: TokenLimit = Field(None, description="OpenAI's newer name of max_tokens.")
    logprobs: TextSwitch | None = Field(
        None, description="The log probability of each token of the text; reasoning and tool calls have none."
    )
    top_logprobs: Integer | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of likeliest tokens returned beside each one; needs `logprobs`.",
    )
    metadata: Any = Field(None, description=IGNORED)
    continue_final_message: Switch | None = Field(None, description=CONTINUE)
    add_generation_prompt: Switch | None = Field(
        None, description="false: as `continue_final_message`. true: a new answer also after one of the assistant."
    )


def chat_request(body: ChatBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("'top_logprobs' is only for a request with 'logprobs': true.", "top_logprobs")
    messages, form = parse_messages(body.messages), constraint(body)
    continue_final, field = body.continue_final_message, "continue_final_message"
    last = body.messages[-1]
    if continue_final is None and isinstance(last, AssistantMessage) and (last.prefix or last.partial):
        mark = "prefix" if last.prefix else "partial"
        continue_final, field = True, f"messages[{len(body.messages) - 1}].{mark}"
    limit = single_max_tokens(body.max_tokens, body.max_completion_tokens)
    return ChatRequest(
        id,
        messages,
        sampling(body, max_tokens=limit, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        deadline_s,
        bool(body.stream),
        tool_use(body),
        form,
        thinking(body),
        continue_last=continues_last(messages, continue_final, body.add_generation_prompt, form is None, field),
        lane=lane(body, messages),
    )
