"""The conversation: OpenAI's messages of every role and part, as the contract's Messages.

Base64 is not decoded here: a picture goes on as the string that came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, from_json

from serve_app.contracts import Detail, ImagePart, Message, Part, Role, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, Wire

DETAIL: Final = (
    "low: few tokens, quick. auto, high: scaled down to what the service allows. "
    "original: never scaled down; refused if that takes more than the service allows."
)


class TextPartBody(Wire):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where a picture is, or the picture itself."""

    url: str = Field(description="`data:image/…;base64,…` or an http(s) address.")
    detail: Detail | None = Field(None, description=DETAIL)


def _as_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePartBody(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object, json_schema_input_type=ImageUrl | str)]


class RefusalPartBody(Wire):
    """An earlier refusal; it stays part of the conversation as text."""

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
SpokenPartBody: TypeAlias = Annotated[TextPartBody | ImagePartBody | RefusalPartBody, Field(discriminator="type")]
SpokenContent: TypeAlias = Annotated[
    list[SpokenPartBody], BeforeValidator(as_parts, json_schema_input_type=str | list[SpokenPartBody])
]


class CalledFunction(Wire):
    """What was called, and with what."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class ToolCallBody(Wire):
    """A call of a tool in an earlier answer."""

    id: str = Field(min_length=1)
    type: Literal["function"]
    function: CalledFunction
    index: int | None = Field(None, description=IGNORED)


class SystemMessage(Wire):
    """What the model should keep to; `developer` is OpenAI's newer word for the same. No pictures."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class UserMessage(Wire):
    """A question, with or without pictures."""

    role: Literal["user"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class AssistantMessage(Wire):
    """An earlier answer; takes what clients copy from a reply. No pictures."""

    role: Literal["assistant"]
    content: SpokenContent | None = Field(None, description="May be left out beside `tool_calls`.")
    tool_calls: list[ToolCallBody] | None = None
    reasoning_content: str | None = Field(None, description="How the model came to the answer.")
    reasoning: str | None = Field(None, description="The same, under vLLM's name.")
    refusal: str | None = None
    name: str | None = Field(None, description=IGNORED)
    annotations: list[Any] | None = Field(None, description=IGNORED)
    boxes: list[Any] | None = Field(None, description=IGNORED)
    provider_specific_fields: dict[str, Any] | None = Field(None, description=IGNORED)  # LiteLLM sends it back
    audio: None = Field(None, description="Not supported.")
    function_call: None = Field(None, description="Not supported; use `tool_calls`.")


class ToolMessage(Wire):
    """What a called tool gave back; may be a picture."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(description="`id` of the call in an earlier answer's `tool_calls`.")
    name: str | None = Field(None, description=IGNORED)


MessageBody: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[MessageBody], Field(min_length=1)]


# -- as contracts ---------------------------------------------------------------------------------


def conversation(messages: Sequence[MessageBody]) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest if there is nothing to answer in it."""
    return checked([_turn(message, f"messages[{index}]") for index, message in enumerate(messages)], "tool_call_id")


def _turn(message: MessageBody, place: str) -> Turn:
    if isinstance(message, AssistantMessage):
        return Turn(_assistant(message, place), place)
    role: Role = "system" if message.role == "developer" else message.role
    parts = tuple(_part(part, f"{place}.content[{index}]") for index, part in enumerate(message.content))
    called = message.tool_call_id if isinstance(message, ToolMessage) else ""
    return Turn(Message(role, parts, tool_call_id=called), place)


def _assistant(message: AssistantMessage, place: str) -> Message:
    parts = tuple(_part(part, f"{place}.content[{index}]") for index, part in enumerate(message.content or ()))
    if not parts and message.refusal:
        parts = (TextPart(message.refusal),)
    if not parts and not message.tool_calls:
        raise InvalidRequest(f"'{place}.content' is required where there are no 'tool_calls'.", f"{place}.content")
    reasoning = message.reasoning_content or message.reasoning or ""
    calls = tuple(
        ToolCall(
            call.id,
            call.function.name,
            json_arguments(call.function.arguments, f"{place}.tool_calls[{index}].function.arguments"),
        )
        for index, call in enumerate(message.tool_calls or ())
    )
    return Message("assistant", parts, reasoning, calls)


def _part(part: SpokenPartBody, place: str) -> Part:
    match part:
        case TextPartBody():
            return TextPart(part.text)
        case RefusalPartBody():
            return TextPart(part.refusal)
        case ImagePartBody():
            return ImagePart(part.image_url.url, f"{place}.image_url", part.image_url.detail or "auto")


def json_arguments(arguments: str, place: str) -> str:
    """A call's arguments, checked to be a JSON object; some clients send nothing for no arguments."""
    try:
        given = from_json(arguments or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"'{place}' is not JSON: {error}.", place) from None
    if not isinstance(given, dict):
        raise InvalidRequest(f"'{place}' must be a JSON object.", place)
    return arguments or "{}"


# -- what holds for every conversation ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and where it stood in the request."""

    message: Message
    place: str


def checked(turns: Sequence[Turn], call_field: str) -> tuple[Message, ...]:
    """The messages, if pictures are where they may be, results belong to calls, and something is asked."""
    calls: set[str] = set()
    for turn in turns:
        message = turn.message
        if message.role in ("system", "assistant"):
            _refuse_pictures(message)
        if message.role == "tool" and message.tool_call_id not in calls:
            param = f"{turn.place}.{call_field}"
            raise InvalidRequest(f"'{param}' names no call of an earlier answer.", param)
        calls.update(call.id for call in message.tool_calls)
    _refuse_nothing(turns[-1])
    return tuple(turn.message for turn in turns)


def _refuse_pictures(message: Message) -> None:
    for part in message.parts:
        if isinstance(part, ImagePart):
            raise InvalidRequest(
                f"Pictures belong in the user's messages and in tools' results, not in the {message.role}'s.",
                part.param,
            )


def _refuse_nothing(last: Turn) -> None:
    """The conversation ends with something to answer: text, or pictures that stand for themselves."""
    if last.message.role not in ("user", "tool"):
        raise InvalidRequest(
            "The last message must be the user's or a tool's; there is nothing to answer.", f"{last.place}.role"
        )
    texts = [part.text for part in last.message.parts if isinstance(part, TextPart)]
    if last.message.role == "user" and texts and not any(text.strip() for text in texts):
        raise InvalidRequest("The question is empty; the last message has no text.", f"{last.place}.content")
