"""What /tokenize takes: a text, or a conversation; vLLM's request."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from serve_app.contracts import ChatRequest
from serve_app.ingress.fields.messages import Messages, conversation
from serve_app.ingress.fields.strict_model import Body, Refused
from serve_app.ingress.fields.thinking import TemplateArguments, ThinkingFields, thinking
from serve_app.ingress.fields.tools import MAX_TOOLS, FunctionTool, ToolFields, tool_use


class TextTokensBody(Body):
    """A text as it stands, without the chat template."""

    refused: ClassVar[dict[str, Refused]] = {
        "add_special_tokens": Refused((True, False), "A text is read as it stands."),
        "return_token_strs": Refused((False,)),
    }

    prompt: str


class ChatTokensBody(Body):
    """A conversation, as /v1/chat/completions would hand it to the model."""

    refused: ClassVar[dict[str, Refused]] = {
        "add_generation_prompt": Refused((True,)),
        "add_special_tokens": Refused((False,)),
        "continue_final_message": Refused((False,)),
        "return_token_strs": Refused((False,)),
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
        conversation(body.messages),
        deadline_s=deadline_s,
        tools=tool_use(ToolFields(tools=body.tools)),
        thinking=thinking(ThinkingFields(chat_template_kwargs=body.chat_template_kwargs)),
    )
