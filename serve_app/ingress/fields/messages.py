"""Fields of the conversation: OpenAI's messages of every role, with their parts and tool calls.

Base64 is not decoded here: a picture stays the string of the request. `conversation.py` maps them to the contracts.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from serve_app.contracts import Detail
from serve_app.ingress.fields.files import FilePartBody, FileUrlPartBody
from serve_app.ingress.fields.plain_image import PlainImagePartBody
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes, MessageNotes, StrictModel, Switch

DETAIL: Final = (
    "low: few tokens, fast. auto, high: scaled down to the service's limit. "
    "original: never scaled down; refused above the service's limit."
)
SOURCE: Final = "`data:image/…;base64,…`, the base64 alone, or an http(s) address."
TYPE: Final = "The kind of part."
ROLE: Final = "Who wrote the message."
CONTENT: Final = "A text, or texts, pictures and files; only the last question may not be empty."
ARGUMENTS: Final = (
    "A JSON object, as text. What was cut off is read up to there; what is no JSON object is kept as a text."
)


def _null_is_empty(value: Any) -> Any:
    return "" if value is None else value


def _empty_is_null(value: Any) -> Any:
    return None if value == "" else value


TextOrNull: TypeAlias = Annotated[str, BeforeValidator(_null_is_empty, json_schema_input_type=str | None)]
"""A text; null is an empty one."""
DetailOrEmpty: TypeAlias = Annotated[
    Detail | None, BeforeValidator(_empty_is_null, json_schema_input_type=Detail | Literal[""] | None)
]
"""A detail; gateways write an empty text where they were given none."""


class TextPartBody(ClientNotes):
    """A piece of text; the longer types are those of /v1/responses."""

    type: Literal["text", "input_text", "output_text"] = Field(description=TYPE)
    text: TextOrNull = Field(description="The text; may be empty.")


class ImageUrl(StrictModel):
    """The address of a picture, or the picture itself."""

    url: str = Field(description=SOURCE)
    detail: DetailOrEmpty = Field(None, description=DETAIL)
    format: Any = Field(None, description=f"{IGNORED} The file says what it is. (LiteLLM's)")
    mime_type: Any = Field(None, alias="MimeType", description=f"{IGNORED} (new-api's)")


def _as_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


PictureUrl: TypeAlias = Annotated[ImageUrl, BeforeValidator(_as_object, json_schema_input_type=ImageUrl | str)]


class ImagePartBody(ClientNotes):
    """A picture; `input_image` is the type of /v1/responses, where `detail` stands beside the address."""

    type: Literal["image_url", "input_image"] = Field(description=TYPE)
    image_url: PictureUrl = Field(description="The picture, or where it is.")
    detail: DetailOrEmpty = Field(None, description="As in `image_url`.")
    uuid: Any = Field(None, description=f"{IGNORED} Equal pictures are recognised. (vLLM's)")


class ReasoningPartBody(ClientNotes):
    """Reasoning among the parts of an earlier answer. (Mistral's, vLLM's and LangChain's)"""

    type: Literal["thinking", "reasoning"] = Field(description=TYPE)
    thinking: Any = Field(None, description="The reasoning: a text, or parts with a `text`.")
    reasoning: Any = Field(None, description="The same. (LangChain's)")
    text: Any = Field(None, description="The same. (Others')")
    signature: Any = Field(None, description=IGNORED)


class RefusalPartBody(ClientNotes):
    """An earlier refusal; it stays in the conversation as text."""

    type: Literal["refusal"] = Field(description=TYPE)
    refusal: str = Field(description="The text of the refusal.")


def as_parts(value: Any) -> Any:
    """A text as a list of one part, null as no part; a text in a list is a part."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return [{"type": "text", "text": part} if isinstance(part, str) else part for part in value]
    raise PydanticCustomError("content_type", "must be a string or a list of parts")


PartBody: TypeAlias = Annotated[
    TextPartBody | ImagePartBody | PlainImagePartBody | FilePartBody | FileUrlPartBody, Field(discriminator="type")
]
Content: TypeAlias = Annotated[
    list[PartBody], BeforeValidator(as_parts, json_schema_input_type=str | list[PartBody | str] | None)
]
AssistantPartBody: TypeAlias = Annotated[
    TextPartBody | ImagePartBody | RefusalPartBody | ReasoningPartBody, Field(discriminator="type")
]
AssistantContent: TypeAlias = Annotated[
    list[AssistantPartBody],
    BeforeValidator(as_parts, json_schema_input_type=str | list[AssistantPartBody | str] | None),
]


class CalledFunction(ClientNotes):
    """The called function and its arguments."""

    name: str = Field(description="The function's name.")
    arguments: Any = Field(None, description=ARGUMENTS)
    parsed_arguments: Any = Field(None, description=f"{IGNORED} (OpenAI's SDK: `parse`)")


class ToolCallBody(ClientNotes):
    """A tool call in an earlier answer."""

    id: TextOrNull = Field("", description="The id that the tool's result refers to; may be empty in both.")
    type: Literal["function"] | None = Field(None, description="Functions are the only tools.")
    function: CalledFunction = Field(description="The function and its arguments.")


class _Message(MessageNotes):
    content: Content = Field([], description=CONTENT)


class SystemMessage(_Message):
    """Instructions to the model; `developer` is OpenAI's newer name for the same. No pictures."""

    role: Literal["system", "developer"] = Field(description=ROLE)


class UserMessage(_Message):
    """A question, with or without pictures."""

    role: Literal["user"] = Field(description=ROLE)


class AssistantMessage(MessageNotes):
    """An earlier answer; accepts what clients copy from a response. No pictures."""

    role: Literal["assistant"] = Field(description=ROLE)
    content: AssistantContent | None = Field(None, description=CONTENT)
    tool_calls: list[ToolCallBody] | None = Field(None, description="The tools that the answer called.")
    reasoning_content: str | None = Field(None, description="The reasoning before the answer.")
    reasoning: str | None = Field(None, description="The same, under vLLM's name.")
    refusal: str | None = Field(None, description="An earlier refusal, where there is no content.")
    prefix: Switch | None = Field(
        None, description="true on the last message: as `continue_final_message`. (DeepSeek's)"
    )
    partial: Switch | None = Field(None, description="The same. (Qwen's and Kimi's)")
    thinking: Any = Field(None, description=f"{IGNORED} (Ollama's)")
    boxes: Any = Field(None, description=IGNORED)
    parsed: Any = Field(None, description=f"{IGNORED} (OpenAI's SDK: `parse`)")
    audio: None = Field(None, description="Not supported.")
    function_call: None = Field(None, description="Not supported; use `tool_calls`.")


class ToolMessage(_Message):
    """The result of a tool call; may be a picture."""

    role: Literal["tool"] = Field(description=ROLE)
    tool_call_id: TextOrNull = Field(description="`id` of the call in an earlier answer's `tool_calls`.")


MessageBody: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[MessageBody], Field(min_length=1)]
