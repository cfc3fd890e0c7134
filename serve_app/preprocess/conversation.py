"""Messages -> turns that every family can write: checked, texts joined, earlier reasoning taken out.

Nothing here knows a template or a tokenizer.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Any

from serve_app.contracts import ImagePart, Message, Role, TextPart, ToolCall, ToolUse
from serve_app.errors import ContextTooLong, InvalidRequest

NO_THINKING = "/nothink"  # typed at the end of a question, it switches thinking off
_DEEPEST = 100  # levels of nested JSON in tool definitions and arguments


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as it is told to the model."""

    role: Role
    content: tuple[str | None, ...]  # None is a picture; two texts never follow each other
    reasoning: str = ""  # only where the model is still at work on the user's last question
    calls: tuple[tuple[ToolCall, dict[str, Any]], ...] = ()  # with their arguments as an object
    call_id: str = ""  # of the call whose result this is

    @property
    def text(self) -> str:
        return "".join(piece for piece in self.content if piece is not None)


def turns(messages: Sequence[Message], answer_marks: bool = False) -> list[Turn]:
    """The conversation, its texts as they came.

    Reasoning that a caller left in an earlier answer (`<think>…</think>`) is taken out of its text, and so
    are the marks `<answer>…</answer>` of models that write them (`answer_marks`). What the model reasoned
    since the user's last question stays beside the turn; a template decides whether it is told again.
    Raises InvalidRequest if a call's arguments are not a JSON object.
    """
    last_question = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    found = []
    for index, message in enumerate(messages):
        content, reasoning = _joined(message), ""
        if message.role == "assistant":
            text, reasoning = _answer("".join(filter(None, content)), message.reasoning, answer_marks)
            content = (text,) if text else ()
        calls = tuple(
            (call, _arguments(call, f"messages[{index}].tool_calls[{number}].function.arguments"))
            for number, call in enumerate(message.tool_calls)
        )
        kept = reasoning if index > last_question else ""
        found.append(Turn(message.role, content, kept, calls, message.tool_call_id))
    return found


def check(messages: Sequence[Message], abilities: Collection[str], limit: int) -> None:
    """Raises InvalidRequest for a conversation without a question, or one that the served model can't be told.

    Raises ContextTooLong for more messages than `limit`, in tokens: each takes at least one.
    """
    if len(messages) > limit:
        raise ContextTooLong(f"there are {len(messages)} messages; the context is {limit} tokens", param="messages")
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("messages has no user message: there is no question", param="messages")
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        pictures = [part for part in message.parts if isinstance(part, ImagePart)]
        if message.role == "user" and not any(text.strip() for text in texts) and (texts or not pictures):
            raise InvalidRequest(f"{field}.content is empty: there is no question", param=f"{field}.content")
        if (message.role == "tool" or message.tool_calls) and "tools" not in abilities:
            what = "is a tool's result" if message.role == "tool" else "calls a tool"
            raise InvalidRequest(f"{field} {what}, and the served model can't use tools", param=field)
        if pictures and message.role not in ("user", "tool"):
            raise InvalidRequest(
                f"{field} has a picture; only user messages and tools' results may have pictures",
                param=pictures[0].param,
            )
        if pictures and message.role == "tool" and "tool_images" not in abilities:
            raise InvalidRequest(
                f"{field} has a picture, and the served model can't see pictures in tools' results",
                param=pictures[0].param,
            )


def check_tools(tools: ToolUse | None, abilities: Collection[str]) -> None:
    """Raises InvalidRequest for tools that the served model can't be offered."""
    if tools is not None and tools.tools and "tools" not in abilities:
        raise InvalidRequest("the served model can't use tools", param="tools")


def check_length(spoken: Sequence[Turn], tools: ToolUse | None, longest_token: int, limit: int) -> None:
    """Raises ContextTooLong for what cannot fit `limit` tokens, before time is spent on it.

    Every text, number and key is at least one token, and no token is longer than `longest_token` bytes.
    Raises InvalidRequest for JSON nested deeper than any schema needs.
    """
    told = ((_told(turn), "messages") for turn in spoken)
    offered = ((tool.definition, "tools") for tool in (tools.tools if tools else ()))
    least = 0
    for data, param in chain(told, offered):
        for size in _sizes(data, param):
            least += max(1, -(-size // longest_token))
            if least > limit:
                raise ContextTooLong(
                    f"the text is at least {least} tokens; the context is {limit} tokens", param="messages"
                )


def asks_not_to_think(messages: Sequence[Message]) -> bool:
    """Whether the user's last question ends with a typed `/nothink`."""
    question = next((message for message in reversed(messages) if message.role == "user" and message.parts), None)
    return question is not None and (_joined(question)[-1] or "").rstrip().endswith(NO_THINKING)


def without_switch(spoken: Sequence[Turn]) -> list[Turn]:
    """The conversation without the `/nothink` at the end of questions: a template writes its own there."""
    return [_without_switch(turn, index) if turn.role == "user" else turn for index, turn in enumerate(spoken)]


def _without_switch(turn: Turn, index: int) -> Turn:
    *before, last = turn.content
    question = (last or "").rstrip()
    if not question.endswith(NO_THINKING):
        return turn
    question = question.removesuffix(NO_THINKING)
    if not before and not question.strip():
        field = f"messages[{index}].content"
        raise InvalidRequest(f"{field} is only {NO_THINKING}: there is no question", param=field)
    return replace(turn, content=(*before, question) if question else tuple(before))


def _joined(message: Message) -> tuple[str | None, ...]:
    """Texts and pictures in their order, neighbouring texts as one: templates put nothing between them."""
    content: list[str | None] = []
    for is_picture, run in groupby(message.parts, lambda part: isinstance(part, ImagePart)):
        texts = [part.text if isinstance(part, TextPart) else None for part in run]
        content += texts if is_picture else ["".join(filter(None, texts))]
    return tuple(content)


def _answer(text: str, reasoning: str, answer_marks: bool) -> tuple[str, str]:
    """(answer, reasoning) of an earlier turn; the same cut as GLM-4.5V's chat template makes."""
    if not reasoning and "</think>" in text:
        reasoning = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        text = text.split("</think>")[-1].lstrip("\n")
    if answer_marks and text.lstrip().startswith("<answer>"):
        text = text.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
    return text, reasoning


def _arguments(call: ToolCall, field: str) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field} is not JSON", param=field) from error
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{field} is not a JSON object", param=field)
    return arguments


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _told(turn: Turn) -> list[Any]:
    """All that the template may write of a turn; the empty text stands for the role's own token."""
    calls = [[call.name, arguments] for call, arguments in turn.calls]
    return [*(turn.content or ("",)), *filter(None, [turn.reasoning]), *calls]


def _sizes(data: Any, param: str, depth: int = 0) -> Iterator[int]:
    """Bytes of every string and key of JSON data; 0 for a number, a constant, and what is empty."""
    if depth > _DEEPEST:
        raise InvalidRequest(f"{param} has JSON nested deeper than {_DEEPEST} levels, the limit", param=param)
    match data:
        case str():
            yield len(data.encode("utf-8", "replace"))
        case dict() if data:
            for key, value in data.items():
                yield from _sizes(key, param, depth)
                yield from _sizes(value, param, depth + 1)
        case list() if data:
            for value in data:
                yield from _sizes(value, param, depth + 1)
        case _:
            yield 0
