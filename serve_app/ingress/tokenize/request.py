"""The request of /tokenize, vLLM's: a text, or a conversation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.ingress.chat.request import CONTINUE
from serve_app.ingress.completions.request import SPECIAL_TOKENS
from serve_app.ingress.fields.conversation import continues_last, parse_messages
from serve_app.ingress.fields.messages import Messages
from serve_app.ingress.fields.strict_model import RequestBody, Switch, UnsupportedField
from serve_app.ingress.fields.thinking import TemplateArguments, ThinkingFields, thinking
from serve_app.ingress.fields.tools import MAX_TOOLS, TOOLS, FunctionTool, ToolFields, tool_use


class TextTokensBody(RequestBody):
    """A text without the chat template."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "return_token_strs": UnsupportedField((False,)),
    }

    prompt: str = Field(description="The text.")
    add_special_tokens: Switch | None = Field(None, description=SPECIAL_TOKENS)


class ChatTokensBody(RequestBody):
    """A conversation, as /v1/chat/completions would give it to the model."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "add_special_tokens": UnsupportedField((False,), "The chat template writes them."),
        "return_token_strs": UnsupportedField((False,)),
    }

    messages: Messages = Field(description="The conversation, oldest message first.")
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = Field(None, description=TOOLS)
    chat_template_kwargs: TemplateArguments | None = Field(None, description="Arguments for the chat template.")
    continue_final_message: Switch | None = Field(None, description=CONTINUE)
    add_generation_prompt: Switch | None = Field(None, description="As in /v1/chat/completions.")


def tokens_request(body: TextTokensBody | ChatTokensBody, *, id: str, deadline_s: float) -> ChatRequest:
    if isinstance(body, TextTokensBody):
        return ChatRequest(
            id,
            (),
            deadline_s=deadline_s,
            text=body.prompt,
            param="prompt",
            special_tokens=body.add_special_tokens is not False,
        )
    messages = parse_messages(body.messages)
    return ChatRequest(
        id,
        messages,
        deadline_s=deadline_s,
        tools=tool_use(ToolFields(tools=body.tools)),
        thinking=thinking(ThinkingFields(chat_template_kwargs=body.chat_template_kwargs)),
        continue_last=continues_last(messages, body.continue_final_message, body.add_generation_prompt),
    )
