"""The cache of decoded pictures: hits, tenants, its bound, and a follow-up that decodes nothing."""

from pathlib import Path

import numpy as np
import pytest

from serve_app.contracts import Caller, ChatRequest, ImagePart, Message, Sampling, TextPart, UnsentPixels
from serve_app.metrics import PICTURES, Metric, SilentMeter
from serve_app.preprocess.decode import Header
from serve_app.preprocess.decoded_cache import DecodedCache, page_key, picture_key
from serve_app.preprocess.decoder_pool import DecodedPicture, ReadPicture
from serve_app.preprocess.prepare import Preprocessor
from serve_app.preprocess.size_rule import SizeRule
from serve_app.settings import ModelSettings, PreprocessSettings
from tests.preprocess.decoders import shared_decoders
from tests.preprocess.pictures import encoded, photo
from tests.preprocess.test_documents import document

HEADER = Header("PNG", 10, 10, orientation=1)


def decoded(pixels: int) -> ReadPicture:
    return ReadPicture(HEADER, DecodedPicture(np.zeros((1, pixels, 3), np.uint8), "digest", 5.0, 6.0, 0.1))


def test_the_least_recently_used_pictures_leave_and_the_bound_holds() -> None:
    cache = DecodedCache(limit_bytes=900)
    for name in (b"a", b"b", b"c"):
        cache.put(name, decoded(100))
    assert cache.get(b"a") is not None
    cache.put(b"d", decoded(100))
    assert [name for name in (b"a", b"b", b"c", b"d") if cache.get(name)] == [b"a", b"c", b"d"]
    cache.put(b"large", decoded(301))
    assert cache.get(b"large") is None
    assert cache.bytes == 900


def test_a_picture_without_pixels_is_not_kept() -> None:
    cache = DecodedCache(limit_bytes=900)
    cache.put(b"a", ReadPicture(HEADER))
    assert cache.get(b"a") is None


def test_a_key_depends_on_tenant_file_and_size() -> None:
    rule, smaller = SizeRule(max_tokens=100), SizeRule(max_tokens=99)
    keys = [
        picture_key(*each) for each in (("t", b"f", rule), ("u", b"f", rule), ("t", b"g", rule), ("t", b"f", smaller))
    ]
    assert len(set(keys)) == 4


def test_what_is_known_of_a_picture_outlives_its_pixels() -> None:
    cache = DecodedCache(limit_bytes=900, known_pictures=4)
    for name in (b"a", b"b", b"c", b"d"):
        cache.put(name, decoded(100))
    assert cache.get(b"a") is None
    known = cache.get(b"a", with_pixels=False)
    assert known is not None
    assert isinstance(known.decoded, DecodedPicture)
    assert (known.decoded.pixels, known.decoded.digest) == (UnsentPixels((1, 100, 3)), "digest")
    assert (known.decoded.decode_ms, known.decoded.cpu_s) == (0.0, 0.0)
    cache.put(b"e", decoded(100))  # the fifth: b was used least recently
    assert cache.get(b"b", with_pixels=False) is None
    assert cache.get(b"a", with_pixels=False) is not None


def test_pixels_that_come_back_are_kept_again() -> None:
    cache = DecodedCache(limit_bytes=300)
    for name in (b"a", b"b", b"a"):
        cache.put(name, decoded(100))
    assert cache.get(b"a") is not None
    assert cache.get(b"b") is None
    assert cache.bytes == 300


def test_a_cache_of_no_bytes_knows_nothing() -> None:
    cache = DecodedCache(limit_bytes=0)
    cache.put(b"a", decoded(100))
    assert cache.get(b"a", with_pixels=False) is None


def test_pages_of_a_document_have_keys_of_their_own() -> None:
    document = picture_key("t", b"f", SizeRule())
    assert len({document, page_key(document, 1), page_key(document, 2)}) == 3


FILE = encoded(photo(300, 200))


def asking(text: str, tenant: str = "one", *files: bytes) -> ChatRequest:
    parts = (*(ImagePart(file) for file in files or (FILE,)), TextPart(text))
    return ChatRequest("r", (Message("user", parts),), Sampling(max_tokens=4), caller=Caller(tenant=tenant))


class Formats(SilentMeter):
    """Remembers the formats of counted pictures."""

    def __init__(self) -> None:
        self.formats: list[str] = []

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        if metric is PICTURES:
            self.formats.append(tags["format"])


def preprocessor(checkpoint: Path, meter: SilentMeter | None = None, **knobs: int) -> Preprocessor:
    return Preprocessor(
        ModelSettings(path=str(checkpoint)),
        PreprocessSettings.model_validate(knobs),
        meter or SilentMeter(),
        decoders=shared_decoders(),
    )


async def test_a_known_picture_needs_no_pixels_and_a_new_one_has_them(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    other = encoded(photo(200, 300, 5))
    first = await stage.prepare(asking("What?"), unsent=True)
    second = await stage.prepare(asking("And?", "one", FILE, other, FILE, other), unsent=True)
    assert first.has_all_pixels
    assert [picture.is_sent for picture in second.pictures] == [False, True, False, True]
    assert second.pictures[0].pixels.shape == first.pictures[0].pixels.shape
    assert second.pictures[0].digest == first.pictures[0].digest
    assert second.pictures[0].seen_size == first.pictures[0].seen_size
    assert (await stage.prepare(asking("What?", "two"), unsent=True)).has_all_pixels
    assert (await stage.prepare(asking("What?"))).has_all_pixels


async def test_a_request_that_is_prepared_again_has_all_pixels_and_is_counted_once(checkpoint: Path) -> None:
    meter = Formats()
    stage = preprocessor(checkpoint, meter)
    first = await stage.prepare(asking("What?"), unsent=True)
    light = await stage.prepare(asking("And?"), unsent=True)
    again = await stage.prepare(asking("And?"), again=True)
    assert meter.formats == ["png", "png"]
    assert not light.has_all_pixels
    assert (again.pictures[0].sent_pixels() == first.pictures[0].sent_pixels()).all()
    assert again.token_ids.tolist() == light.token_ids.tolist()


async def test_a_picture_whose_pixels_left_the_cache_is_decoded_again_only_for_its_pixels(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    first = await stage.prepare(asking("What?"))
    stage._pictures._cache._pixels.clear()
    light = await stage.prepare(asking("And?"), unsent=True)
    assert (light.pictures[0].is_sent, light.stages_ms["resize"]) == (False, 0.0)
    again = await stage.prepare(asking("And?"), again=True)
    assert (again.pictures[0].sent_pixels() == first.pictures[0].sent_pixels()).all()
    assert again.stages_ms["resize"] > 0


@pytest.mark.parametrize("file", [encoded(photo(3000, 2000), "JPEG"), document(2)], ids=["large", "document"])
async def test_large_pictures_and_pages_are_decoded_once_too(checkpoint: Path, file: bytes) -> None:
    """Only pictures that are decoded with their header were kept."""
    stage = preprocessor(checkpoint)
    first = await stage.prepare(asking("What?", "one", file))
    second = await stage.prepare(asking("And?", "one", file))
    light = await stage.prepare(asking("And?", "one", file), unsent=True)
    assert first.stages_ms["resize"] > 0
    assert second.stages_ms["resize"] == 0.0
    for one, other, third in zip(first.pictures, second.pictures, light.pictures, strict=True):
        assert (one.sent_pixels() == other.sent_pixels()).all()
        assert (one.digest, one.source) == (third.digest, third.source)
        assert not third.is_sent


@pytest.mark.parametrize(("tenant", "decodes"), [("one", False), ("two", True)])
async def test_a_follow_up_of_the_same_tenant_decodes_nothing(checkpoint: Path, tenant: str, decodes: bool) -> None:
    stage = preprocessor(checkpoint)
    first = await stage.prepare(asking("What?", "one"))
    second = await stage.prepare(asking("And who?", tenant))
    assert isinstance(second.pictures[0].pixels, np.ndarray)
    assert (second.pictures[0].pixels == first.pictures[0].pixels).all()
    assert second.pictures[0].digest == first.pictures[0].digest
    assert (second.stages_ms["resize"] > 0) == decodes
