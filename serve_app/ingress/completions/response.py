"""The response of /v1/completions: OpenAI's; a chunk of a stream has the same shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.answers import Answers, CollectedAnswer
from serve_app.contracts import Delta, Event, Finished, FinishReason
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.context import ServingContext
from serve_app.ingress.fields.logprobs import CompletionLogprobs, completion_logprobs
from serve_app.ingress.fields.usage import UsageReply, usage_json
from serve_app.ingress.respond import Responder, timings_json
from serve_app.ingress.sse import DONE


class CompletionChoice(TypedDict):
    """One of the texts, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """A continued text; in a stream, one `data:` line, the usage in a last one without choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: NotRequired[Literal["default"]]
    choices: list[CompletionChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]


class CompletionResponder(Responder):
    """Writes answers as a text completion, or as its chunks."""

    def __init__(self, context: ServingContext, id: str, request: CompletionBody) -> None:
        self._context = context
        self._id = id
        self._created = int(context.now())
        self._request = request

    async def body(self, answers: Answers) -> Completion:
        choices = await answers.collect()
        return self._summary(answers, [self._choice(index, choice) for index, choice in enumerate(choices)])

    async def chunks(self, answers: Answers) -> AsyncGenerator[Any, None]:
        usage = self._request.include_usage
        offsets = [0] * len(answers)  # characters sent of each choice
        async with aclosing(answers.events()) as events:
            async for index, event in events:
                chunk = self._completion([_piece(index, event, offsets[index])])
                if isinstance(event, Delta):
                    offsets[index] += len(event.text)
                if usage:
                    chunk["usage"] = usage_json(answers.usage) if usage == "continuous" else None
                if answers.finished is not None:
                    chunk["timings"] = timings_json(answers)
                yield chunk
        if usage:
            yield self._summary(answers, [])
        yield DONE

    def _summary(self, answers: Answers, choices: list[CompletionChoice]) -> Completion:
        completion = self._completion(choices)
        completion["usage"] = usage_json(answers.usage)
        completion["timings"] = timings_json(answers)
        return completion

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        completion: Completion = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._context.served,
            "system_fingerprint": self._context.fingerprint,
            "choices": choices,
        }
        if self._request.service_tier is not None:
            completion["service_tier"] = "default"
        return completion

    def _choice(self, index: int, answer: CollectedAnswer) -> CompletionChoice:
        return {
            "index": index,
            "text": answer.text,
            "logprobs": None if self._request.logprobs is None else completion_logprobs(answer.logprobs, 0),
            "finish_reason": answer.end.reason,
        }


def _piece(index: int, event: Event, offset: int) -> CompletionChoice:
    logprobs = event.logprobs if isinstance(event, Delta) else ()
    return {
        "index": index,
        "text": event.text if isinstance(event, Delta) else "",
        "logprobs": completion_logprobs(logprobs, offset) if logprobs else None,
        "finish_reason": event.reason if isinstance(event, Finished) else None,
    }
