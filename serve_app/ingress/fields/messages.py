"""Fields of the conversation: OpenAI's messages of every role and part, as the contract's Messages.

Base64 is not decoded here: a picture stays the string of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, from_json

from serve_app.contracts import Detail, ImagePart, Message, Part, Role, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, StrictModel

DETAIL: Final = (
    "low: few tokens, fast. auto, high: scaled down to the service's limit. "
    "original: never scaled down; refused above the service's limit."
)


class TextPartBody(StrictModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(StrictModel):
    """The address of a picture, or the picture itself."""

    url: str = Field(description="`data:image/…;base64,…` or an http(s) address.")
    detail: Detail | None = Field(None, description=DETAIL)


def _as_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePartBody(StrictModel):
    """A picture."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object, json_schema_input_type=ImageUrl | str)]


class RefusalPartBody(StrictModel):
    """An earlier refusal; it stays in the conversation as text."""

    type: Literal["refusal"]
    refusal: str


def as_parts(value: Any) -> Any:
    """A text as a list of one part."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return value
    raise PydanticCustomError("content_type", "must be a string or a list of parts")


PartBody: TypeAlias = Annotated[TextPartBody | ImagePartBody, Field(discriminator="type")]
Content: TypeAlias = Annotated[
    list[PartBody],
    BeforeValidator(as_parts, json_schema_input_type=str | list[PartBody]),
    Field(min_length=1),
]
AssistantPartBody: TypeAlias = Annotated[TextPartBody | ImagePartBody | RefusalPartBody, Field(discriminator="type")]
AssistantContent: TypeAlias = Annotated[
    list[AssistantPartBody], BeforeValidator(as_parts, json_schema_input_type=str | list[AssistantPartBody])
]


class CalledFunction(StrictModel):
    """The called function and its arguments."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class ToolCallBody(StrictModel):
    """A tool call in an earlier answer."""

    id: str = Field(min_length=1)
    type: Literal["function"]
    function: CalledFunction
    index: int | None = Field(None, description=IGNORED)


class SystemMessage(StrictModel):
    """Instructions to the model; `developer` is OpenAI's newer name for the same. No pictures."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class UserMessage(StrictModel):
    """A question, with or without pictures."""

    role: Literal["user"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class AssistantMessage(StrictModel):
    """An earlier answer; accepts what clients copy from a response. No pictures."""

    role: Literal["assistant"]
    content: AssistantContent | None = Field(None, description="Optional beside `tool_calls`.")
    tool_calls: list[ToolCallBody] | None = None
    reasoning_content: str | None = Field(None, description="The reasoning before the answer.")
    reasoning: str | None = Field(None, description="The same, under vLLM's name.")
    refusal: str | None = None
    name: str | None = Field(None, description=IGNORED)
    annotations: list[Any] | None = Field(None, description=IGNORED)
    boxes: list[Any] | None = Field(None, description=IGNORED)
    provider_specific_fields: dict[str, Any] | None = Field(None, description=IGNORED)  # LiteLLM sends it back
    audio: None = Field(None, description="Not supported.")
    function_call: None = Field(None, description="Not supported; use `tool_calls`.")


class ToolMessage(StrictModel):
    """The result of a tool call; may be a picture."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(description="`id` of the call in an earlier answer's `tool_calls`.")
    name: str | None = Field(None, description=IGNORED)


MessageBody: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[MessageBody], Field(min_length=1)]


# -- to contracts ---------------------------------------------------------------------------------


def parse_messages(messages: Sequence[MessageBody]) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest if its last message is not of the user or a tool."""
    return check_messages(
        [_message(message, f"messages[{index}]") for index, message in enumerate(messages)], "tool_call_id"
    )


def _message(message: MessageBody, param: str) -> Message:
    if isinstance(message, AssistantMessage):
        return _assistant(message, param)
    role: Role = "system" if message.role == "developer" else message.role
    parts = tuple(_part(part, f"{param}.content[{index}]") for index, part in enumerate(message.content))
    tool_call_id = message.tool_call_id if isinstance(message, ToolMessage) else ""
    return Message(role, parts, tool_call_id=tool_call_id, param=param)


def _assistant(message: AssistantMessage, param: str) -> Message:
    parts = tuple(_part(part, f"{param}.content[{index}]") for index, part in enumerate(message.content or ()))
    if not parts and message.refusal:
        parts = (TextPart(message.refusal),)
    if not parts and not message.tool_calls:
        raise InvalidRequest(f"'{param}.content' is required where there are no 'tool_calls'.", f"{param}.content")
    calls = tuple(
        ToolCall(
            call.id,
            call.function.name,
            json_arguments(call.function.arguments, f"{param}.tool_calls[{index}].function.arguments"),
        )
        for index, call in enumerate(message.tool_calls or ())
    )
    return Message("assistant", parts, message.reasoning_content or message.reasoning or "", calls, param=param)


def _part(part: AssistantPartBody, param: str) -> Part:
    match part:
        case TextPartBody():
            return TextPart(part.text)
        case RefusalPartBody():
            return TextPart(part.refusal)
        case ImagePartBody():
            return ImagePart(part.image_url.url, f"{param}.image_url", part.image_url.detail or "auto")


def json_arguments(arguments: str, param: str) -> dict[str, Any]:
    """A tool call's arguments, which must be a JSON object; some clients send an empty text for no arguments."""
    try:
        parsed = from_json(arguments or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"'{param}' is not JSON: {error}.", param) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"'{param}' must be a JSON object.", param)
    return parsed


def check_messages(messages: Sequence[Message], call_field: str) -> tuple[Message, ...]:
    """The messages, if each tool result belongs to an earlier call and the last message is of the user or a tool.

    `call_field` names a result's reference to its call. Where pictures may be is checked in preprocess.
    """
    calls: set[str] = set()
    for message in messages:
        if message.role == "tool" and message.tool_call_id not in calls:
            param = f"{message.param}.{call_field}"
            raise InvalidRequest(f"'{param}' names no tool call of an earlier answer.", param)
        calls.update(call.id for call in message.tool_calls)
    last = messages[-1]
    if last.role not in ("user", "tool"):
        raise InvalidRequest(
            "The role of the last message must be 'user' or 'tool'; otherwise there is nothing to answer.",
            f"{last.param}.role",
        )
    return tuple(messages)
