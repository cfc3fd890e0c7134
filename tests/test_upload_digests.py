"""Digests of uploads: which have one, and what it depends on"""

from __future__ import annotations

from serve_app.contracts import ChatRequest, ImagePart, Message, TextPart
from serve_app.upload_digests import with_digests

LARGE = "data:image/jpeg;base64," + "A" * 200_000
OTHER = LARGE + "BBBB"
ADDRESS = "https://a.b/c.jpg"


def asking(*uploads: str | bytes) -> ChatRequest:
    parts = (*map(ImagePart, uploads), TextPart("What is shown?"))
    return ChatRequest("r", (Message("user", (TextPart("Hello"),)), Message("user", parts)))


async def test_a_digest_depends_on_the_content_and_on_whether_it_is_a_text_or_a_file() -> None:
    request = await with_digests(asking(LARGE, LARGE, OTHER, LARGE.encode(), ADDRESS, b""))
    digests = [part.digest for part in request.messages[1].parts if isinstance(part, ImagePart)]
    assert digests[0] == digests[1]
    assert len({*digests[1:4]}) == 3
    assert digests[4:] == [b"", b""]  # content that is not known yet, and none


async def test_large_uploads_have_the_digests_of_small_ones_and_stay_as_they_are() -> None:
    large = await with_digests(asking(LARGE * 20, LARGE))  # hashed in a thread
    assert large == asking(LARGE * 20, LARGE)
    (first, second, _) = large.messages[1].parts
    assert isinstance(first, ImagePart)
    assert isinstance(second, ImagePart)
    assert first.digest
    small = await with_digests(asking(LARGE))
    (alone, _) = small.messages[1].parts
    assert isinstance(alone, ImagePart)
    assert second.digest == alone.digest


async def test_a_request_without_uploads_stays_the_same_object() -> None:
    request = asking()
    assert await with_digests(request) is request
