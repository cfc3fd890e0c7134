"""The response of /v1/chat/completions: OpenAI's, with reasoning, boxes, images and timings added."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.answers import Answers, CollectedAnswer
from serve_app.contracts import Delta, Event, Finished, FinishReason, Started, ToolCallDelta
from serve_app.ingress.chat.request import ChatBody
from serve_app.ingress.context import ServingContext
from serve_app.ingress.fields.completion import CompletionsResponder
from serve_app.ingress.fields.lane import Tier, service_tier
from serve_app.ingress.fields.logprobs import ChoiceLogprobs, chat_logprobs
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, UsageReply, boxes_json


class FunctionReply(TypedDict):
    """The function's name, and its arguments: a JSON object, as text."""

    name: str
    arguments: str


class ToolCallReply(TypedDict):
    """A tool call of the model."""

    id: str
    type: Literal["function"]
    function: FunctionReply


class AnswerMessage(TypedDict):
    """The answer; without content if it has tool calls only. Reasoning has both names that clients read."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[None]
    reasoning_content: str | None
    reasoning: str | None
    tool_calls: NotRequired[list[ToolCallReply]]
    boxes: NotRequired[list[BoxedReply]]


class Choice(TypedDict):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(TypedDict):
    """A complete answer; `timings` in milliseconds and `images` are ours, the rest OpenAI's."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Tier]
    choices: list[Choice]
    usage: UsageReply
    prompt_logprobs: None
    timings: dict[str, float]
    images: NotRequired[list[ImageReply]]


class FunctionDelta(TypedDict, total=False):
    """The name, in a call's first delta; the arguments in pieces."""

    name: str
    arguments: str


class ToolCallDeltaReply(TypedDict):
    """A piece of a tool call; the first one has its id and name."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class AnswerDelta(TypedDict, total=False):
    """The new content of a chunk."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None
    reasoning: str | None
    tool_calls: list[ToolCallDeltaReply]
    boxes: list[BoxedReply]


class ChunkChoice(TypedDict):
    """A piece of one of the answers."""

    index: int
    delta: AnswerDelta
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(TypedDict):
    """One `data:` line of a streamed answer; the usage chunk has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Tier]
    choices: list[ChunkChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]
    images: NotRequired[list[ImageReply]]


# -- from events ----------------------------------------------------------------------------------


class ChatResponder(CompletionsResponder):
    """Writes answers as a ChatCompletion, or as ChatCompletionChunks."""

    body_type = "chat.completion"
    chunk_type = "chat.completion.chunk"

    def __init__(self, context: ServingContext, id: str, request: ChatBody) -> None:
        super().__init__(context, id, request, service_tier(request))
        self._logprobs = request.logprobs

    def choice(self, index: int, answer: CollectedAnswer) -> dict[str, Any]:
        reasoning = answer.reasoning if answer.reasonings else None
        message: AnswerMessage = {
            "role": "assistant",
            "content": answer.text if answer.texts or not answer.calls else None,
            "refusal": None,
            "annotations": [],
            "reasoning_content": reasoning,
            "reasoning": reasoning,
        }
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": self._call_id(),
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in answer.calls
            ]
        if answer.end.boxed:
            message["boxes"] = boxes_json(answer.end.boxed)
        logprobs = chat_logprobs(answer.logprobs) if self._logprobs else None
        return {"message": message, "logprobs": logprobs, "finish_reason": answer.end.reason}

    def piece(self, index: int, event: Event) -> dict[str, Any]:
        logprobs = event.logprobs if isinstance(event, Delta) and event.channel == "text" else ()
        return {
            "delta": self._delta(event),
            "logprobs": chat_logprobs(logprobs) if logprobs else None,
            "finish_reason": event.reason if isinstance(event, Finished) else None,
        }

    async def body(self, answers: Answers) -> dict[str, Any]:
        return {**await super().body(answers), "prompt_logprobs": None}  # vLLM's clients look for it

    def _call_id(self) -> str:
        return f"call_{self._new_id()}"

    def _delta(self, event: Event) -> AnswerDelta:
        match event:
            case Started():
                return {"role": "assistant", "content": ""}
            case Delta(channel="reasoning"):
                return {"reasoning_content": event.text, "reasoning": event.text}
            case Delta():
                return {"content": event.text, "reasoning_content": None}
            case ToolCallDelta():
                call: ToolCallDeltaReply = {"index": event.index, "function": {"arguments": event.arguments}}
                if event.name is not None:
                    call["id"], call["type"] = self._call_id(), "function"
                    call["function"]["name"] = event.name
                return {"tool_calls": [call]}
            case Finished():
                return {"boxes": boxes_json(event.boxed)} if event.boxed else {}
