"""The pipeline with a preparer in its own process: when it asks it, and when it calls preprocess"""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.contracts import ChatRequest, Event, Picture, Prompt, UnsentPixels
from serve_app.errors import InvalidRequest
from serve_app.pipeline import Pipeline
from tests.test_unsent_pixels import Service, asking, text


class Local:
    """A preparer that knows the pictures of the prompts that it was shown."""

    def __init__(self) -> None:
        self.pictures: dict[bytes, Picture] = {}
        self.asked: list[str] = []
        self.error: InvalidRequest | None = None

    def prepare(self, request: ChatRequest) -> Prompt | None:
        self.asked.append(request.id)
        if self.error is not None:
            raise self.error
        digests = [part.digest for message in request.messages for part in message.parts if hasattr(part, "digest")]
        if not all(digest in self.pictures for digest in digests):
            return None
        pictures = tuple(self.pictures[digest] for digest in digests)
        return Prompt(request.id, self.token_ids, pictures, request.sampling, request.deadline_s)

    def remember(self, request: ChatRequest, prompt: Prompt) -> None:
        digests = [part.digest for message in request.messages for part in message.parts if hasattr(part, "digest")]
        for digest, picture in zip(digests, prompt.pictures, strict=True):
            self.pictures[digest] = replace(picture, pixels=UnsentPixels((2, 2, 3)))
        self.token_ids = prompt.token_ids


class LocalService(Service):
    """The pipeline with such a preparer."""

    def __init__(self) -> None:
        super().__init__()
        self.local = Local()
        self.pipeline = Pipeline(self.handle, self.engine_handle, local=self.local)  # type: ignore[arg-type]

    async def answer(self, name: str) -> list[Event]:
        return await self.ask(asking(name, tenant="default"))


async def test_a_follow_up_calls_no_preprocess_and_sends_no_pixels() -> None:
    service = LocalService()
    for name in ("first", "second", "third"):
        assert text(await service.answer(name)).startswith(name)
    assert service.preprocess.calls == [("first", True, False)]
    assert service.engine.sent == [[True], [False], [False]]
    assert service.local.asked == ["first", "second", "third"]


async def test_preprocess_reads_the_upload_again_if_the_engine_needs_its_pixels() -> None:
    service = LocalService()
    await service.answer("first")
    service.engine.knows[0].clear()  # evicted
    assert text(await service.answer("second")).startswith("second")
    assert service.preprocess.calls == [("first", True, False), ("second", False, True)]
    assert service.engine.sent == [[True], [False], [True]]
    assert service.local.asked == ["first", "second"]


async def test_an_error_of_the_preparer_is_that_of_the_request() -> None:
    service = LocalService()
    await service.answer("first")
    service.local.error = InvalidRequest("The question is empty.", "messages")
    with pytest.raises(InvalidRequest, match="is empty"):
        await service.answer("second")
    assert len(service.preprocess.calls) == 1
