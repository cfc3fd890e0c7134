"""What chat and text completions share: the envelope of a body or chunk, and the order of a stream."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar

from serve_app.answers import Answers, CollectedAnswer
from serve_app.contracts import Event
from serve_app.errors import ServiceError
from serve_app.ingress.context import ServingContext
from serve_app.ingress.fields.lane import Tier
from serve_app.ingress.fields.stream_options import StreamFields
from serve_app.ingress.fields.usage import images_json, usage_json
from serve_app.ingress.respond import Responder, timings_json
from serve_app.ingress.sse import DONE


class CompletionsResponder(Responder):
    """Writes answers as the `choices` of an object, or of chunks."""

    body_type: ClassVar[str]  # the value of `object`
    chunk_type: ClassVar[str]

    def __init__(self, context: ServingContext, id: str, request: StreamFields, tier: Tier | None) -> None:
        self._usage = request.include_usage
        self._new_id = context.new_id
        self._envelope: dict[str, Any] = {
            "id": id,
            "created": int(context.now()),
            "model": context.served,
            "system_fingerprint": context.fingerprint,
        }
        if tier is not None:
            self._envelope["service_tier"] = tier

    @abstractmethod
    def choice(self, index: int, answer: CollectedAnswer) -> Mapping[str, Any]:
        """The complete answer `index`, without the index."""

    @abstractmethod
    def piece(self, index: int, event: Event) -> Mapping[str, Any] | None:
        """What an event adds to the answer `index`, without the index; None if it adds nothing."""

    async def body(self, answers: Answers) -> dict[str, Any]:
        choices = [{"index": index, **self.choice(index, each)} for index, each in enumerate(await answers.collect())]
        return {**self._envelope, "object": self.body_type, "choices": choices, **self._summary(answers)}

    async def chunks(self, answers: Answers) -> AsyncGenerator[Any, None]:
        head = {**self._envelope, "object": self.chunk_type}
        async with aclosing(answers.events()) as events:
            async for index, event in events:
                piece = self.piece(index, event)
                if piece is None:
                    continue
                chunk = {**head, "choices": [{"index": index, **piece}]}
                if answers.finished is not None:
                    chunk |= self._summary(answers)
                    del chunk["usage"]
                if self._usage:
                    chunk["usage"] = usage_json(answers.usage) if self._usage == "continuous" else None
                yield chunk
        if self._usage:
            yield {**head, "choices": [], **self._summary(answers)}
        yield DONE

    def error_chunks(self, answers: Answers, error: ServiceError) -> Sequence[Any]:
        return [*super().error_chunks(answers, error), DONE]

    def _summary(self, answers: Answers) -> dict[str, Any]:
        """What is known once all answers are complete."""
        summary: dict[str, Any] = {"usage": usage_json(answers.usage), "timings": timings_json(answers)}
        if answers.pictures:
            summary["images"] = images_json(answers.pictures)
        return summary
