"""Checks of a conversation before it is tokenized: what the model can express, and what cannot fit."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from serve_app.contracts import ChatRequest, ImagePart, Message, TextPart, Thinking, ToolUse
from serve_app.errors import InvalidRequest
from serve_app.preprocess.max_tokens import context_too_long
from serve_app.preprocess.normalize_messages import text_of

_MAX_DEPTH = 100  # levels of nested JSON in tool definitions and arguments


def check_request(request: ChatRequest, abilities: Collection[str], limit: int) -> None:
    """Raises InvalidRequest for a request without a question, or for parts that the served model does not support.

    Raises ContextTooLong for more messages than `limit`, in tokens: each takes at least one.
    """
    if request.text is not None:
        if request.messages or request.tools or request.thinking != Thinking():
            raise InvalidRequest(
                "A text is continued without the chat template. Send it without messages, tools and thinking.",
                request.param,
            )
        return
    if request.tools is not None and request.tools.required and "tools" not in abilities:
        raise InvalidRequest("The served model does not support tools, so none can be required.", "tool_choice")
    if len(request.messages) > limit:
        raise context_too_long(limit, len(request.messages), request.param, at_least=True)
    _check_question(request)
    for message in request.messages:
        _check_message(message, abilities)


def _check_question(request: ChatRequest) -> None:
    """Raises InvalidRequest if nothing is asked: only the last turn of the user has to have a text or a picture."""
    if not request.messages:
        raise InvalidRequest("The conversation has no message, so there is no question.", request.param)
    asked = [message for message in request.messages if message.role in ("user", "tool")] or request.messages
    if asked[-1].role != "tool" and not _has_content(asked[-1]):
        raise InvalidRequest(f"The question is empty: {asked[-1].param} has no text.", asked[-1].param)


def _has_content(message: Message) -> bool:
    return any(not isinstance(part, TextPart) or part.text.strip() for part in message.parts)


def _check_message(message: Message, abilities: Collection[str]) -> None:
    pictures = [part for part in message.parts if isinstance(part, ImagePart)]
    if (message.role == "tool" or message.tool_calls) and "tools" not in abilities:
        what = "is the result of a tool" if message.role == "tool" else "calls a tool"
        raise InvalidRequest(
            f"{message.param} {what}, and the served model does not support tools. Remove it.", message.param
        )
    if pictures and message.role not in ("user", "tool"):
        raise InvalidRequest(
            f"{message.param} is a message of the {message.role} with a picture. Only user messages and results of"
            " tools may have pictures.",
            pictures[0].param,
        )
    if pictures and message.role == "tool" and "tool_images" not in abilities:
        raise InvalidRequest(
            f"{message.param} has a picture, and the served model cannot see pictures in results of tools."
            " Send it in a user message.",
            pictures[0].param,
        )


def check_length(
    messages: Sequence[Message], tools: ToolUse | None, longest_token: int, limit: int, param: str
) -> None:
    """Raises ContextTooLong for normalized messages that cannot fit `limit` tokens, before time is spent on them.

    Every text, number and key is at least one token, and no token is longer than `longest_token` bytes.
    Raises InvalidRequest for JSON nested deeper than any schema needs.
    """
    in_messages = ((_rendered_data(message), message.param) for message in messages)
    in_tools = ((tool.definition, "tools") for tool in (tools.tools if tools else ()))
    least = 0
    for data, field in chain(in_messages, in_tools):
        for size in _byte_sizes(data, field):
            least += max(1, -(-size // longest_token))
            if least > limit:
                raise context_too_long(limit, least, param, at_least=True)


def _rendered_data(message: Message) -> list[Any]:
    """All data of a message that the template may write; the role takes a token too, so an empty text counts."""
    calls = [[call.name, call.arguments] for call in message.tool_calls]
    pictures = [None for part in message.parts if isinstance(part, ImagePart)]
    return [text_of(message), *pictures, *filter(None, [message.reasoning]), *calls]


def _byte_sizes(data: Any, field: str, depth: int = 0) -> Iterator[int]:
    """Bytes of every string and key of JSON data; 0 for a number, a constant, and what is empty."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(
            f"{field} has JSON nested deeper than {_MAX_DEPTH} levels, the limit. Use a flatter structure.", field
        )
    match data:
        case str():
            yield len(data.encode("utf-8", "replace"))
        case dict() if data:
            for key, value in data.items():
                yield from _byte_sizes(key, field, depth)
                yield from _byte_sizes(value, field, depth + 1)
        case list() if data:
            for value in data:
                yield from _byte_sizes(value, field, depth + 1)
        case _:
            yield 0
