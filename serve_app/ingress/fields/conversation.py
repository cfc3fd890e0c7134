"""The conversation of a request body as the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic_core import from_json

from serve_app.contracts import Detail, ImagePart, Message, Part, Role, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.files import FilePartBody, FileUrlPartBody, file_part
from serve_app.ingress.fields.messages import (
    AssistantMessage,
    ImagePartBody,
    MessageBody,
    PartBody,
    ReasoningPartBody,
    RefusalPartBody,
    TextPartBody,
    ToolMessage,
)
from serve_app.ingress.fields.plain_image import PlainImagePartBody, plain_image_part

UNPARSED: Final = "arguments"  # the key of a call's arguments that are no JSON object


def parse_messages(messages: Sequence[MessageBody]) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest for a tool's result without its call."""
    return check_results(
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
    parts = tuple(
        _part(part, f"{param}.content[{index}]")
        for index, part in enumerate(message.content or ())
        if not isinstance(part, ReasoningPartBody)
    )
    if not parts and message.refusal:
        parts = (TextPart(message.refusal),)
    calls = tuple(
        ToolCall(call.id, call.function.name, call_arguments(call.function.arguments))
        for call in message.tool_calls or ()
    )
    in_parts = "\n".join(_reasoning_text(part) for part in message.content or () if isinstance(part, ReasoningPartBody))
    reasoning = message.reasoning_content or message.reasoning or in_parts
    return Message("assistant", parts, reasoning, calls, param=param)


def _reasoning_text(part: ReasoningPartBody) -> str:
    """The reasoning of a part, which may be a text or a list of objects with a `text`."""
    given = part.thinking or part.reasoning or part.text
    pieces = given if isinstance(given, list) else [given]
    texts = [piece.get("text") if isinstance(piece, dict) else piece for piece in pieces]
    return "".join(text for text in texts if isinstance(text, str))


def _part(part: PartBody | RefusalPartBody, param: str) -> Part:
    match part:
        case TextPartBody():
            return TextPart(part.text)
        case RefusalPartBody():
            return TextPart(part.refusal)
        case ImagePartBody():
            return image_part(part.image_url.url, f"{param}.image_url", part.image_url.detail or part.detail)
        case PlainImagePartBody():
            return plain_image_part(part, param)
        case FilePartBody(file=file):
            return file_part(f"{param}.file", file_data=file.file_data, file_id=file.file_id, pages=file.pages)
        case FileUrlPartBody(file_url=file):
            return replace(
                file_part(f"{param}.file_url", file_url=file.url, pages=file.pages), param=f"{param}.file_url"
            )


def image_part(source: str, param: str, detail: Detail | None = None) -> ImagePart:
    return ImagePart(source, param, detail or "auto")


def call_arguments(arguments: Any) -> dict[str, Any]:
    """The arguments of an earlier call, never refused: a conversation with a call that failed goes on.

    What the token limit cut off is read up to there; anything else that is no JSON object is one text.
    """
    parsed = arguments
    if isinstance(arguments, str):
        try:
            parsed = from_json(arguments, allow_inf_nan=False, allow_partial="trailing-strings")
        except ValueError:
            parsed = arguments.strip() and arguments
    if parsed is None or parsed in ("", []):  # PHP writes an empty object as []
        return {}
    return parsed if isinstance(parsed, dict) else {UNPARSED: parsed}


def check_results(messages: Sequence[Message], call_field: str) -> tuple[Message, ...]:
    """The messages, if each tool result belongs to an earlier call; `call_field` names its reference to the call.

    What the served model can read, and whether there is a question, is checked in preprocess.
    """
    calls: set[str] = set()
    for message in messages:
        if message.role == "tool" and message.tool_call_id not in calls:
            param = f"{message.param}.{call_field}"
            raise InvalidRequest(f"'{param}' names no tool call of an earlier answer.", param)
        calls.update(call.id for call in message.tool_calls)
    return tuple(messages)


def continues_last(
    messages: Sequence[Message],
    continue_final: bool | None,
    generation_prompt: bool | None,
    free_text: bool = True,
    field: str = "continue_final_message",
) -> bool:
    """Whether the answer continues the last message, which then is a text of the assistant.

    By default it does where that message is the assistant's; vLLM's two fields decide otherwise. A text that has to
    match a constraint (`free_text` is false) is always a new answer. Raises InvalidRequest for a contradiction;
    `field` is the one that `continue_final` comes from.
    """
    if continue_final and generation_prompt:
        raise InvalidRequest(f"'{field}' and 'add_generation_prompt' exclude each other.", field)
    last = messages[-1]
    possible = (
        last.role == "assistant"
        and not last.tool_calls
        and any(isinstance(part, TextPart) and part.text for part in last.parts)
    )
    for name, asked in (
        (field, continue_final),
        ("add_generation_prompt", generation_prompt is False),
    ):
        if asked and not possible:
            raise InvalidRequest(f"'{name}' needs a last message of the assistant with a text to continue.", name)
        if asked and not free_text:
            raise InvalidRequest(f"'{name}' can't be combined with a format of the answer.", name)
    return possible and free_text and continue_final is not False and not generation_prompt
