"""Preprocess knows pictures by the digests of their uploads: hits, tenants, sizes, documents, scanners, memory."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from serve_app.caller import Caller
from serve_app.contracts import ChatRequest, Detail, ImagePart, Message, Sampling, TextPart
from serve_app.metrics import SilentMeter
from serve_app.preprocess.decoded_cache import DecodedCache
from serve_app.preprocess.prepare import Preprocessor
from serve_app.preprocess.scan import Scanner
from serve_app.settings import ModelSettings, PreprocessSettings
from serve_app.upload_digests import change_parts, with_digests
from tests.preprocess.decoders import shared_decoders
from tests.preprocess.pictures import encoded, photo
from tests.preprocess.test_decoded_cache import decoded
from tests.preprocess.test_documents import document

FILE = encoded(photo(300, 200))


class NoThreat:
    """A scanner that finds nothing."""

    async def scan_all(self, files: Any, labels: Any) -> None:
        pass


def preprocessor(checkpoint: Path, scanner: Any = None, **knobs: int) -> Preprocessor:
    return Preprocessor(
        ModelSettings(path=str(checkpoint)),
        PreprocessSettings.model_validate(knobs),
        SilentMeter(),
        decoders=shared_decoders(),
        scanner=cast(Scanner | None, scanner),
    )


async def asking(text: str, *uploads: bytes | str, tenant: str = "one", detail: Detail = "auto") -> ChatRequest:
    parts = (*(ImagePart(upload, detail=detail) for upload in uploads or (FILE,)), TextPart(text))
    request = ChatRequest("r", (Message("user", parts),), Sampling(max_tokens=4), caller=Caller(tenant=tenant))
    return await with_digests(request)


def light(request: ChatRequest) -> ChatRequest:
    """The request without its uploads."""
    return change_parts(request, lambda part: replace(part, source=b""))


async def test_a_known_upload_needs_only_its_digest_and_the_prompt_is_the_same(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    other = "data:image/png;base64," + base64.b64encode(encoded(photo(200, 300, 5))).decode()
    request = await asking("And?", FILE, other, FILE)
    first = await stage.prepare(request, unsent=True)
    assert first.knows_uploads
    known = stage.known_uploads(light(request))
    assert known is not None
    again = await stage.prepare(light(request), unsent=True, known=known)
    assert again.knows_uploads
    assert again.token_ids.tolist() == first.token_ids.tolist()
    assert not any(picture.is_sent for picture in again.pictures)
    for one, same in zip(first.pictures, again.pictures, strict=True):
        assert (one.digest, one.tokens, one.original_size) == (same.digest, same.tokens, same.original_size)
        assert (one.seen_size, one.source) == (same.seen_size, same.source)


async def test_a_new_upload_beside_a_known_one_is_decoded(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    await stage.prepare(await asking("What?"))
    other = encoded(photo(200, 300, 5))
    request = await asking("And?", FILE, other)
    mixed = change_parts(request, lambda part: replace(part, source=b"") if part.source == FILE else part)
    known = stage.known_uploads(mixed)
    assert known is not None
    prompt = await stage.prepare(mixed, unsent=True, known=known)
    assert [picture.is_sent for picture in prompt.pictures] == [False, True]
    assert [picture.original_size for picture in prompt.pictures] == [(300, 200), (200, 300)]
    assert prompt.knows_uploads


async def test_an_upload_is_not_known_to_another_tenant_or_at_another_size(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    await stage.prepare(await asking("What?"))
    assert stage.known_uploads(light(await asking("What?"))) is not None
    assert stage.known_uploads(light(await asking("What?", tenant="two"))) is None
    assert stage.known_uploads(light(await asking("What?", detail="low"))) is None
    assert stage.known_uploads(light(await asking("What?", encoded(photo(300, 200, 7))))) is None


async def test_a_request_with_all_its_uploads_needs_none(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    assert stage.known_uploads(await asking("What?")) == {}
    text = ChatRequest("r", (Message("user", (TextPart("Hello"),)),), Sampling(max_tokens=4))
    assert stage.known_uploads(text) == {}
    assert not (await stage.prepare(text)).knows_uploads


async def test_documents_are_not_known_by_their_digests(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    request = await asking("What?", document(1))
    assert not (await stage.prepare(request)).knows_uploads
    assert stage.known_uploads(light(request)) is None


async def test_where_uploads_are_scanned_none_is_left_out(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint, NoThreat())
    request = await asking("What?")
    assert not (await stage.prepare(request)).knows_uploads
    assert stage.known_uploads(light(request)) is None


async def test_without_a_cache_no_upload_is_known(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint, decoded_cache_mib=0)
    assert not (await stage.prepare(await asking("What?"))).knows_uploads


def test_digests_of_uploads_have_a_bound_and_end_with_their_pictures() -> None:
    cache = DecodedCache(limit_bytes=900, known_pictures=2)
    for name in (b"a", b"b"):
        cache.put(name, decoded(100))
        cache.add_upload(b"upload of " + name, name)
    assert cache.of_upload(b"upload of a") is not None
    cache.add_upload(b"another of a", b"a")  # the third: that of b was used least recently
    assert cache.of_upload(b"upload of b") is None
    cache.put(b"c", decoded(100))
    cache.put(b"d", decoded(100))
    assert cache.of_upload(b"upload of a") is None
