"""The input of /v1/responses: a text or a list of items, as the contract's Messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serve_app.contracts import Detail, ImagePart, Message, Part, Role, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.messages import DETAIL, Turn, checked, json_arguments
from serve_app.ingress.fields.strict_model import IGNORED, Wire

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class InputText(Wire):
    """A piece of text."""

    type: Literal["input_text"]
    text: str


class InputImage(Wire):
    """A picture."""

    type: Literal["input_image"]
    file_id: None = Field(None, description="Not supported; this service keeps no files.")
    image_url: str = Field(description="`data:image/…;base64,…` or an http(s) address.")
    detail: Detail | None = Field(None, description=DETAIL)


class OutputText(Wire):
    """A piece of an earlier answer; takes what clients copy from a reply."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = Field(None, description=IGNORED)
    logprobs: list[Any] | None = Field(None, description=IGNORED)


class OutputRefusal(Wire):
    """An earlier refusal; it stays part of the conversation as text."""

    type: Literal["refusal"]
    refusal: str


def _as_input(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    if isinstance(value, list):
        return value
    raise PydanticCustomError("content_type", "must be a string or a list of parts")


ItemPart: TypeAlias = Annotated[InputText | InputImage | OutputText | OutputRefusal, Field(discriminator="type")]
ItemContent: TypeAlias = Annotated[
    list[ItemPart], BeforeValidator(_as_input, json_schema_input_type=str | list[ItemPart]), Field(min_length=1)
]
ResultPart: TypeAlias = Annotated[InputText | InputImage, Field(discriminator="type")]
Result: TypeAlias = Annotated[
    list[ResultPart], BeforeValidator(_as_input, json_schema_input_type=str | list[ResultPart]), Field(min_length=1)
]


class MessageItem(Wire):
    """A message of anybody; an earlier answer may be sent back as it came."""

    type: Literal["message"] | None = Field(None, description="May be left out.")
    role: Literal["user", "assistant", "system", "developer"]
    content: ItemContent
    id: str | None = Field(None, description=IGNORED)
    status: ItemStatus | None = Field(None, description=IGNORED)
    phase: str | None = Field(None, description=IGNORED)


class FunctionCallItem(Wire):
    """A call of a tool in an earlier answer."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: str
    arguments: str = Field(description="A JSON object, as text.")
    id: str | None = Field(None, description=IGNORED)
    status: ItemStatus | None = Field(None, description=IGNORED)


class FunctionCallOutputItem(Wire):
    """What a called tool gave back; may hold pictures."""

    type: Literal["function_call_output"]
    call_id: str = Field(description="`call_id` of an earlier function_call.")
    output: Result
    id: str | None = Field(None, description=IGNORED)
    status: ItemStatus | None = Field(None, description=IGNORED)


class ReasoningText(Wire):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Wire):
    """How the model came to an earlier answer; goes with the answer after it."""

    type: Literal["reasoning"]
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    id: str | None = Field(None, description=IGNORED)
    status: ItemStatus | None = Field(None, description=IGNORED)
    encrypted_content: str | None = Field(None, description=IGNORED)


def _item_type(value: Any) -> Any:
    """An item's type; a message may leave it out."""
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "message" if given is None else given


InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_type),
]


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        if not value.strip():
            raise PydanticCustomError("empty_question", "must not be empty")
        return [{"role": "user", "content": value}]
    if isinstance(value, list):
        return value
    raise PydanticCustomError("input_type", "must be a string or a list of items")


Input: TypeAlias = Annotated[
    list[InputItem], BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]), Field(min_length=1)
]


# -- as contracts ---------------------------------------------------------------------------------


def conversation(items: Sequence[InputItem], instructions: str | None) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest if there is nothing to answer in it.

    A call belongs to the answer that it follows, reasoning to the answer that follows it.
    """
    turns: list[Turn] = []
    if instructions:
        turns.append(Turn(Message("system", (TextPart(instructions),)), "instructions"))
    reasoning: list[str] = []
    for index, item in enumerate(items):
        place = f"input[{index}]"
        match item:
            case ReasoningItem():
                reasoning += [part.text for part in item.content or item.summary or ()]
            case FunctionCallItem():
                call = ToolCall(item.call_id, item.name, json_arguments(item.arguments, f"{place}.arguments"))
                if turns and turns[-1].message.role == "assistant" and not reasoning:
                    answer = turns[-1].message
                    turns[-1] = replace(turns[-1], message=replace(answer, tool_calls=(*answer.tool_calls, call)))
                else:
                    turns.append(Turn(Message("assistant", (), _said(reasoning), (call,)), place))
            case FunctionCallOutputItem():
                parts = tuple(_part(part, f"{place}.output[{at}]") for at, part in enumerate(item.output))
                turns.append(Turn(Message("tool", parts, tool_call_id=item.call_id), place))
            case MessageItem():
                role: Role = "system" if item.role == "developer" else item.role
                parts = tuple(_part(part, f"{place}.content[{at}]") for at, part in enumerate(item.content))
                turns.append(Turn(Message(role, parts, _said(reasoning) if role == "assistant" else ""), place))
    if not turns:
        raise InvalidRequest("'input' holds reasoning only; there is nothing to answer.", "input")
    return checked(turns, "call_id")


def _said(reasoning: list[str]) -> str:
    """All of it, once."""
    text = "\n".join(reasoning)
    reasoning.clear()
    return text


def _part(part: ItemPart, place: str) -> Part:
    match part:
        case InputText() | OutputText():
            return TextPart(part.text)
        case OutputRefusal():
            return TextPart(part.refusal)
        case InputImage():
            return ImagePart(part.image_url, f"{place}.image_url", part.detail or "auto")
