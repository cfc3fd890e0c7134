"""The pipeline sends preprocess the digests of uploads that it knows; of others, and of other tenants, the uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from serve_app.caller import Caller
from serve_app.contracts import (
    ChatRequest,
    Delta,
    Event,
    Finished,
    ImagePart,
    Message,
    Pages,
    Prompt,
    Started,
    TextPart,
    Usage,
)
from serve_app.errors import EngineFailed
from serve_app.pipeline import Pipeline
from serve_app.replies import UploadsNeeded
from serve_app.seen_pictures import SeenPictures
from serve_app.upload_digests import is_left_out, with_digests
from tests.test_pipeline import FakeHandle

LARGE = "data:image/jpeg;base64," + "A" * 200_000
OTHER = LARGE + "BBBB"
ADDRESS = "https://a.b/c.jpg"


def asking(name: str, *uploads: str | bytes, tenant: str = "t", pages: Pages | None = None) -> ChatRequest:
    parts = (*(ImagePart(upload, pages=pages) for upload in uploads or (LARGE,)), TextPart(name))
    return ChatRequest(
        name, (Message("user", (TextPart("Hello"),)), Message("user", parts)), caller=Caller(tenant=tenant)
    )


class Service:
    """The pipeline over a preprocess that knows what it has prepared."""

    def __init__(self, *, knows: bool = True) -> None:
        self.known: set[tuple[str, bytes]] = set()  # tenants and digests
        self.knows = knows
        self.left_out: list[list[bool]] = []  # of the uploads of each call
        self.handle = FakeHandle(prepare=lambda request, unsent, again: partial(self._prepare, request))
        self.pipeline = Pipeline(self.handle, FakeHandle(generate=self._generate))  # type: ignore[arg-type]

    async def _prepare(self, request: ChatRequest) -> Prompt | UploadsNeeded:
        await asyncio.sleep(0)
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        self.left_out.append([is_left_out(part) for part in parts])
        if any(is_left_out(part) and (request.caller.tenant, part.digest) not in self.known for part in parts):
            return UploadsNeeded()
        self.known |= {(request.caller.tenant, part.digest) for part in parts}
        ids = np.arange(3, dtype=np.int32)
        return Prompt(request.id, ids, (), request.sampling, request.deadline_s, knows_uploads=self.knows)

    async def _generate(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        yield Started(3, 0)
        yield Delta(prompt.id, 1)
        yield Finished("stop", Usage(3, 1))

    async def ask(self, request: ChatRequest) -> str:
        async with aclosing(self.pipeline.answer(request)) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    @property
    def by_reference(self) -> list[bool]:
        return [options["_by_reference"] for options, *_ in self.handle.calls]


async def test_a_follow_up_sends_the_digest_of_its_upload_as_a_message() -> None:
    service = Service()
    for name in ("first", "second"):
        assert await service.ask(asking(name)) == name
    assert service.left_out == [[False], [True]]
    assert service.by_reference == [True, False]


async def test_a_new_upload_beside_a_known_one_is_sent() -> None:
    service = Service()
    await service.ask(asking("first"))
    assert await service.ask(asking("second", LARGE, OTHER)) == "second"
    assert service.left_out == [[False], [True, False]]


async def test_another_tenant_sends_its_upload() -> None:
    service = Service()
    await service.ask(asking("first", tenant="t"))
    await service.ask(asking("second", tenant="u"))
    assert service.left_out == [[False], [False]]


async def test_a_replica_of_preprocess_that_does_not_know_an_upload_gets_it() -> None:
    service = Service()
    await service.ask(asking("first"))
    service.known.clear()  # another replica, or a new one
    for name in ("second", "third"):
        assert await service.ask(asking(name)) == name
    assert service.left_out == [[False], [True], [False], [True]]


async def test_uploads_that_preprocess_does_not_keep_are_sent_each_time() -> None:
    """Such as documents, and all uploads where each is scanned."""
    service = Service(knows=False)
    for name in ("first", "second"):
        await service.ask(asking(name))
    assert service.left_out == [[False], [False]]


async def test_uploads_beside_an_address_and_with_pages_are_sent_each_time() -> None:
    service = Service()
    for uploads, pages in (((LARGE, ADDRESS), None), ((LARGE,), Pages(((1, None),)))):
        for name in ("first", "second"):
            await service.ask(asking(name, *uploads, pages=pages))
    assert service.left_out == [[False, False], [False, False], [False], [False]]


async def test_a_preprocess_that_asks_for_uploads_that_it_has_fails_the_request() -> None:
    service = Service()

    async def insists() -> UploadsNeeded:
        return UploadsNeeded()

    service.handle.methods["prepare"] = lambda request, unsent, again: insists
    with pytest.raises(EngineFailed, match="asked for uploads"):
        await service.ask(asking("first"))


async def test_a_digest_depends_on_the_content_and_on_whether_it_is_a_text_or_a_file() -> None:
    request = await with_digests(asking("r", LARGE, LARGE, OTHER, LARGE.encode(), ADDRESS, b""))
    digests = [part.digest for part in request.messages[1].parts if isinstance(part, ImagePart)]
    assert digests[0] == digests[1]
    assert len({*digests[1:4]}) == 3
    assert digests[4:] == [b"", b""]  # content that is not known yet, and none
    large = await with_digests(asking("r", LARGE * 20))  # hashed in a thread
    assert large == asking("r", LARGE * 20)
    assert all(part.digest for part in large.messages[1].parts if isinstance(part, ImagePart))


async def test_memories_of_known_uploads_are_bounded() -> None:
    seen = SeenPictures(most=2)
    requests = [await with_digests(asking("r", LARGE + str(n))) for n in range(3)]
    for request in requests:
        seen.add_uploads(request, known=True)
    light = [seen.without_known_uploads(request) for request in requests]
    assert [one.uploads == [b""] for one in light] == [False, True, True]
    assert light[0] is requests[0]
    assert all(request.uploads[0] for request in requests)
    other = replace(requests[2], caller=Caller(tenant="u"))
    assert seen.without_known_uploads(other) is other
