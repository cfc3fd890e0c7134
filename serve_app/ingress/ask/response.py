"""The response of /v1/ask: one object, or a stream whose last event is that object."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NotRequired

from typing_extensions import TypedDict

from serve_app.answers import Answers, CollectedAnswer
from serve_app.contracts import Delta, FinishReason, Started
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, UsageReply, boxes_json, images_json, usage_json
from serve_app.ingress.respond import Responder, timings_json


class AskReply(TypedDict):
    """A complete answer of /v1/ask; in a stream, the last event."""

    id: str
    model: str
    answer: str
    reasoning: NotRequired[str]
    boxes: NotRequired[list[BoxedReply]]
    finish_reason: FinishReason
    usage: UsageReply
    images: NotRequired[list[ImageReply]]
    timings: dict[str, float]


class AskDelta(TypedDict):
    """New text of a streaming /v1/ask."""

    delta: str


class AskReasoning(TypedDict):
    """New reasoning of a streaming /v1/ask."""

    reasoning: str


class AskResponder(Responder):
    """Writes the answer as one object, or as deltas and then that object."""

    def __init__(self, id: str, model: str) -> None:
        self._id = id
        self._model = model

    async def body(self, answers: Answers) -> AskReply:
        (answer,) = await answers.collect()
        return self._reply(answers, answer)

    def _reply(self, answers: Answers, answer: CollectedAnswer) -> AskReply:
        body: AskReply = {
            "id": self._id,
            "model": self._model,
            "answer": answer.text,
            "finish_reason": answer.end.reason,
            "usage": usage_json(answers.usage),
            "timings": timings_json(answers),
        }
        if answer.reasonings:
            body["reasoning"] = answer.reasoning
        if answer.end.boxed:
            body["boxes"] = boxes_json(answer.end.boxed)
        if answers.pictures:
            body["images"] = images_json(answers.pictures)
        return body

    async def chunks(self, answers: Answers) -> AsyncGenerator[Any, None]:
        collected = CollectedAnswer()
        async with aclosing(answers.events()) as events:
            async for _, event in events:
                collected.add(event)
                match event:
                    case Started():
                        yield AskDelta(delta="")  # sends the headers
                    case Delta(channel="reasoning"):
                        yield AskReasoning(reasoning=event.text)
                    case Delta():
                        yield AskDelta(delta=event.text)
        yield self._reply(answers, collected)
