"""The request of /tokenize, vLLM's: a text, or a conversation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.ingress.fields.messages import Messages, parse_messages
from serve_app.ingress.fields.strict_model import RequestBody, UnsupportedField
from serve_app.ingress.fields.thinking import TemplateArguments, ThinkingFields, thinking
from serve_app.ingress.fields.tools import MAX_TOOLS, FunctionTool, ToolFields, tool_use


class TextTokensBody(RequestBody):
    """A text without the chat template."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "add_special_tokens": UnsupportedField((True, False), "A text is tokenized as it is."),
        "return_token_strs": UnsupportedField((False,)),
    }

    prompt: str


class ChatTokensBody(RequestBody):
    """A conversation, as /v1/chat/completions would give it to the model."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "add_generation_prompt": UnsupportedField((True,)),
        "add_special_tokens": UnsupportedField((False,)),
        "continue_final_message": UnsupportedField((False,)),
        "return_token_strs": UnsupportedField((False,)),
    }

    messages: Messages
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: TemplateArguments | None = None


def tokens_body(fields: dict[str, Any]) -> TextTokensBody | ChatTokensBody:
    return ChatTokensBody.read(fields) if "messages" in fields else TextTokensBody.read(fields)


def tokens_request(body: TextTokensBody | ChatTokensBody, *, id: str, deadline_s: float) -> ChatRequest:
    if isinstance(body, TextTokensBody):
        return ChatRequest(id, (), deadline_s=deadline_s, text=body.prompt, param="prompt")
    return ChatRequest(
        id,
        parse_messages(body.messages),
        deadline_s=deadline_s,
        tools=tool_use(ToolFields(tools=body.tools)),
        thinking=thinking(ThinkingFields(chat_template_kwargs=body.chat_template_kwargs)),
    )
