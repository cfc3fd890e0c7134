"""The input of /v1/responses: a text or a list of items, as the contract's Messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from serve_app.contracts import Message, Part, Role, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.conversation import call_arguments, check_results, image_part
from serve_app.ingress.fields.files import FILE_DATA, FILE_ID, FILENAME, PAGES, file_part
from serve_app.ingress.fields.messages import ARGUMENTS, DETAIL, SOURCE, TYPE, DetailOrEmpty, PictureUrl, TextOrNull
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes, MessageNotes
from serve_app.ingress.validation import truncate

REASONING_ID: Final = "rs_"


class InputText(ClientNotes):
    """A piece of text; `text` is the type of /v1/chat/completions."""

    type: Literal["input_text", "text"] = Field(description=TYPE)
    text: TextOrNull = Field(description="The text; may be empty.")


class InputImage(ClientNotes):
    """A picture; `image_url` is the type of /v1/chat/completions."""

    type: Literal["input_image", "image_url"] = Field(description=TYPE)
    file_id: None = Field(None, description="Not supported; this service keeps no files.")
    image_url: PictureUrl = Field(description=SOURCE)
    detail: DetailOrEmpty = Field(None, description=DETAIL)


class InputFile(ClientNotes):
    """A PDF, each page of which the model sees as a picture, or a picture."""

    type: Literal["input_file"] = Field(description=TYPE)
    file_data: str | None = Field(None, description=FILE_DATA)
    file_url: str | None = Field(None, description="An http(s) address of the file; instead of `file_data`.")
    file_id: Any = Field(None, description=FILE_ID)
    filename: Any = Field(None, description=FILENAME)
    detail: DetailOrEmpty = Field(None, description=DETAIL)
    pages: str | None = Field(None, description=PAGES)


class OutputText(ClientNotes):
    """A piece of an earlier answer; accepts what clients copy from a response."""

    type: Literal["output_text"] = Field(description=TYPE)
    text: TextOrNull = Field(description="The text.")
    logprobs: Any = Field(None, description=IGNORED)
    parsed: Any = Field(None, description=f"{IGNORED} (OpenAI's SDK: `parse`)")


class OutputRefusal(ClientNotes):
    """An earlier refusal; it stays in the conversation as text."""

    type: Literal["refusal"] = Field(description=TYPE)
    refusal: str = Field(description="The text of the refusal.")


def _as_input(value: Any) -> Any:
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    if isinstance(value, list):
        return [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in value]
    raise PydanticCustomError("content_type", "must be a string or a list of parts")


ItemPart: TypeAlias = Annotated[
    InputText | InputImage | InputFile | OutputText | OutputRefusal, Field(discriminator="type")
]
ItemContent: TypeAlias = Annotated[
    list[ItemPart], BeforeValidator(_as_input, json_schema_input_type=str | list[ItemPart | str] | None)
]
ResultPart: TypeAlias = Annotated[InputText | InputImage | InputFile, Field(discriminator="type")]
Result: TypeAlias = Annotated[
    list[ResultPart], BeforeValidator(_as_input, json_schema_input_type=str | list[ResultPart | str] | None)
]


class MessageItem(MessageNotes):
    """A message of any role; an earlier answer may be sent back unchanged."""

    type: Literal["message"] | None = Field(None, description="The kind of item; may be missing.")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="Who wrote the message.")
    content: ItemContent = Field([], description="A text, or texts, pictures and files.")
    phase: Any = Field(None, description=IGNORED)


class FunctionCallItem(ClientNotes):
    """A tool call in an earlier answer."""

    type: Literal["function_call"] = Field(description="The kind of item.")
    call_id: str = Field(min_length=1, description="The id that the function's result refers to.")
    name: str = Field(description="The function's name.")
    arguments: Any = Field(None, description=ARGUMENTS)
    parsed_arguments: Any = Field(None, description=f"{IGNORED} (OpenAI's SDK: `parse`)")
    status: Any = Field(None, description=IGNORED)


class FunctionCallOutputItem(ClientNotes):
    """The result of a tool call; may have pictures."""

    type: Literal["function_call_output"] = Field(description="The kind of item.")
    call_id: str = Field(description="`call_id` of an earlier function_call.")
    output: Result = Field([], description="A text, or texts, pictures and files.")
    status: Any = Field(None, description=IGNORED)


class ReasoningText(ClientNotes):
    """A piece of reasoning."""

    type: Literal["reasoning_text", "summary_text"] = Field(description=TYPE)
    text: str = Field(description="The text.")


class ReasoningItem(ClientNotes):
    """The reasoning before an earlier answer; it belongs to the answer after it."""

    type: Literal["reasoning"] = Field(description="The kind of item.")
    summary: list[ReasoningText] | None = Field(None, description="The reasoning, where there is no `content`.")
    content: list[ReasoningText] | None = Field(None, description="The reasoning.")
    status: Any = Field(None, description=IGNORED)
    encrypted_content: Any = Field(None, description=IGNORED)


class ItemReference(ClientNotes):
    """An item of a recent response by its id alone; reasoning that is no longer known is left out."""

    type: Literal["item_reference"] = Field(description="The kind of item.")
    id: str = Field(description="The id of an output item; not of a response with `store: false`.")


def _item_type(value: Any) -> Any:
    """An item's type; it is optional for a message."""
    given = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "message" if given is None else given


InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(_item_type),
]


def _text_or_items(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return validate(value)
    raise PydanticCustomError("input_type", "must be a string or a list of items")


# A text stays a text, so that errors name 'input' and not the items that the caller did not send.
Input: TypeAlias = Annotated[
    list[InputItem],
    Field(min_length=1),
    WrapValidator(_text_or_items, json_schema_input_type=str | list[InputItem]),
    Field(json_schema_extra={"minItems": 1}),
]


# -- to contracts ---------------------------------------------------------------------------------


def parse_input(input: str | Sequence[InputItem], instructions: str | None) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest for a reference to an item that is not known.

    A tool call joins the assistant message before it; reasoning joins the assistant message after it.
    """
    messages: list[Message] = []
    if instructions:
        messages.append(Message("system", (TextPart(instructions),), param="instructions"))
    if isinstance(input, str):
        return (*messages, Message("user", (TextPart(input),), param="input"))
    reasoning: list[str] = []
    for index, item in enumerate(input):
        param = f"input[{index}]"
        match item:
            case ReasoningItem():
                reasoning += [part.text for part in item.content or item.summary or ()]
            case FunctionCallItem():
                call = ToolCall(item.call_id, item.name, call_arguments(item.arguments))
                if messages and messages[-1].role == "assistant" and not reasoning:
                    answer = messages[-1]
                    messages[-1] = replace(answer, tool_calls=(*answer.tool_calls, call))
                else:
                    messages.append(Message("assistant", (), _take(reasoning), (call,), param=param))
            case ItemReference():
                if not item.id.startswith(REASONING_ID):
                    raise InvalidRequest(
                        f"'{param}' refers to '{truncate(item.id)}', which is not known here: answers are kept for a"
                        " while only. Send the item itself; AI SDK does with the provider option 'store': false.",
                        f"{param}.id",
                    )
            case FunctionCallOutputItem():
                parts = tuple(_part(part, f"{param}.output[{at}]") for at, part in enumerate(item.output))
                messages.append(Message("tool", parts, tool_call_id=item.call_id, param=param))
            case MessageItem():
                role: Role = "system" if item.role == "developer" else item.role
                parts = tuple(_part(part, f"{param}.content[{at}]") for at, part in enumerate(item.content))
                messages.append(Message(role, parts, _take(reasoning) if role == "assistant" else "", param=param))
    if not messages:
        raise InvalidRequest("'input' has reasoning only; there is nothing to answer.", "input")
    return check_results(messages, "call_id")


def _take(reasoning: list[str]) -> str:
    """The reasoning collected so far as one text; empties the list."""
    text = "\n".join(reasoning)
    reasoning.clear()
    return text


def _part(part: ItemPart, param: str) -> Part:
    match part:
        case InputText() | OutputText():
            return TextPart(part.text)
        case OutputRefusal():
            return TextPart(part.refusal)
        case InputImage():
            return image_part(part.image_url.url, f"{param}.image_url", part.detail or part.image_url.detail)
        case InputFile():
            return file_part(
                param,
                file_data=part.file_data,
                file_url=part.file_url,
                file_id=part.file_id,
                pages=part.pages,
                detail=part.detail,
            )
