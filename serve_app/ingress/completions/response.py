"""The response of /v1/completions: OpenAI's; a chunk of a stream has the same shape."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from serve_app.answers import CollectedAnswer
from serve_app.contracts import Delta, Event, Finished, FinishReason, Started
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.context import ServingContext
from serve_app.ingress.fields.completion import CompletionsResponder
from serve_app.ingress.fields.lane import Tier, service_tier
from serve_app.ingress.fields.logprobs import CompletionLogprobs, completion_logprobs
from serve_app.ingress.fields.usage import UsageReply


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
    service_tier: NotRequired[Tier]
    choices: list[CompletionChoice]
    usage: NotRequired[UsageReply | None]
    timings: NotRequired[dict[str, float]]


class CompletionResponder(CompletionsResponder):
    """Writes answers as a Completion, or as Completions with a piece of text each."""

    body_type = chunk_type = "text_completion"

    def __init__(self, context: ServingContext, id: str, request: CompletionBody) -> None:
        super().__init__(context, id, request, service_tier(request))
        self._logprobs = request.logprobs
        self._echoed = [text for text in request.texts() for _ in range(request.n or 1)]  # before each choice
        self._sent: Counter[int] = Counter()  # characters of each answer

    def choice(self, index: int, answer: CollectedAnswer) -> dict[str, Any]:
        logprobs = None if self._logprobs is None else completion_logprobs(answer.logprobs, 0)
        return {"text": self._echoed[index] + answer.text, "logprobs": logprobs, "finish_reason": answer.end.reason}

    def piece(self, index: int, event: Event) -> dict[str, Any] | None:
        if isinstance(event, Started):  # a chunk without text would be counted as the first token
            return None
        text, logprobs = (event.text, event.logprobs) if isinstance(event, Delta) else ("", ())
        text, self._echoed[index] = self._echoed[index] + text, ""
        offset = self._sent[index]
        self._sent[index] += len(text)
        return {
            "text": text,
            "logprobs": completion_logprobs(logprobs, offset) if logprobs else None,
            "finish_reason": event.reason if isinstance(event, Finished) else None,
        }
