"""The response of /v1/messages: Anthropic's message, or the events of its content blocks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from serve_app.answers import Answers
from serve_app.contracts import Delta, Event, Finished, Started, ToolCallDelta, Usage
from serve_app.errors import ServiceError
from serve_app.ingress.context import ServingContext
from serve_app.ingress.errors import anthropic_error_json
from serve_app.ingress.fields.conversation import call_arguments
from serve_app.ingress.fields.error import AnthropicErrorReply
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, boxes_json, images_json
from serve_app.ingress.respond import Responder, timings_json
from serve_app.ingress.sse import typed_frame

StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
StreamEvent: TypeAlias = dict[str, Any]  # its `type` names it

UNSIGNED: Final = "unsigned"  # clients send reasoning back only with a signature; it is not checked


class TextBlockReply(TypedDict):
    """A piece of the answer."""

    type: Literal["text"]
    text: str


class ThinkingBlockReply(TypedDict):
    """The reasoning before the answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlockReply(TypedDict):
    """A tool call of the model."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


ContentBlock: TypeAlias = TextBlockReply | ThinkingBlockReply | ToolUseBlockReply


class MessageTokensDetails(TypedDict):
    """The answer's tokens by kind."""

    thinking_tokens: int


class MessageUsage(TypedDict):
    """Counted from token ids."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: MessageTokensDetails
    service_tier: NotRequired[Literal["standard"]]


class MessageReply(TypedDict):
    """A complete answer; `timings`, `images` and `boxes` are ours, the rest Anthropic's."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    timings: NotRequired[dict[str, float]]
    images: NotRequired[list[ImageReply]]
    boxes: NotRequired[list[BoxedReply]]


class TokensCount(TypedDict):
    """The number of tokens of a prompt."""

    input_tokens: int


class MessageEvent(TypedDict, total=False):
    """An event of a stream; its other fields depend on its type."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message: MessageReply
    index: int
    content_block: ContentBlock
    delta: dict[str, Any]
    usage: MessageUsage
    timings: dict[str, float]
    boxes: list[BoxedReply]


# -- from events ----------------------------------------------------------------------------------


class MessagesResponder(Responder):
    """Writes an answer as a message, or as the events of its content blocks."""

    frame = staticmethod(typed_frame)

    def __init__(self, context: ServingContext, id: str, request_id: str) -> None:
        self._context = context
        self._id = id
        self._request_id = request_id

    async def body(self, answers: Answers) -> MessageReply:
        (answer,) = await answers.collect()
        content: list[ContentBlock] = []
        if answer.reasonings:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": UNSIGNED})
        if answer.texts:
            content.append({"type": "text", "text": answer.text})
        for call in answer.calls:
            arguments = call_arguments("".join(call.arguments))
            content.append({"type": "tool_use", "id": self._call_id(), "name": call.name, "input": arguments})
        reply = self._message(answers, content)
        reply["stop_reason"], reply["stop_sequence"] = stop_reason(answer.end)
        reply["timings"] = timings_json(answers)
        if answer.end.boxed:
            reply["boxes"] = boxes_json(answer.end.boxed)
        return reply

    async def chunks(self, answers: Answers) -> AsyncGenerator[StreamEvent, None]:
        blocks = BlockEvents(self._call_id)
        async with aclosing(answers.events()) as events:
            async for _, event in events:
                if isinstance(event, Started):
                    yield {"type": "message_start", "message": self._message(answers, [])}
                    yield {"type": "ping"}
                for change in blocks.add(event):
                    yield change
        assert answers.finished is not None
        reason, sequence = stop_reason(answers.finished)
        last: StreamEvent = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": message_usage(answers.usage),
            "timings": timings_json(answers),
        }
        if answers.finished.boxed:
            last["boxes"] = boxes_json(answers.finished.boxed)
        yield last
        yield {"type": "message_stop"}

    def error_chunks(self, answers: Answers, error: ServiceError) -> Sequence[AnthropicErrorReply]:
        return [anthropic_error_json(error, self._request_id)]

    def _call_id(self) -> str:
        return f"toolu_{self._context.new_id()}"

    def _message(self, answers: Answers, content: list[ContentBlock]) -> MessageReply:
        reply: MessageReply = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._context.served,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**message_usage(answers.usage), "service_tier": "standard"},
        }
        if answers.pictures:
            reply["images"] = images_json(answers.pictures)
        return reply


class BlockEvents:
    """The events of the content blocks of one answer: each block begins, grows and ends before the next one."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._kind: str | None = None  # of the block that is open
        self._index = -1

    def add(self, event: Event) -> Iterator[StreamEvent]:
        """The events that an answer's event adds; `Finished` ends the block that is open."""
        match event:
            case Delta(channel="reasoning"):
                yield from self._open({"type": "thinking", "thinking": "", "signature": ""})
                yield self._delta({"type": "thinking_delta", "thinking": event.text})
            case Delta():
                yield from self._open({"type": "text", "text": ""})
                yield self._delta({"type": "text_delta", "text": event.text})
            case ToolCallDelta():
                if event.name is not None:
                    yield from self._close()
                    block = {"type": "tool_use", "id": self._new_call_id(), "name": event.name, "input": {}}
                    yield from self._open(block)
                if event.arguments:
                    yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})
            case Finished():
                yield from self._close()

    def _open(self, block: dict[str, Any]) -> Iterator[StreamEvent]:
        if self._kind == block["type"]:
            return
        yield from self._close()
        self._kind = block["type"]
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[StreamEvent]:
        if self._kind is None:
            return
        if self._kind == "thinking":
            yield self._delta({"type": "signature_delta", "signature": UNSIGNED})
        self._kind = None
        yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: dict[str, Any]) -> StreamEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def stop_reason(finished: Finished) -> tuple[StopReason, str | None]:
    """Why the answer ended, and the stop sequence that ended it."""
    match finished.reason:
        case "length":
            return "max_tokens", None
        case "tool_calls":
            return "tool_use", None
        case _:
            return ("end_turn" if finished.stop is None else "stop_sequence"), finished.stop


def message_usage(usage: Usage) -> MessageUsage:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
