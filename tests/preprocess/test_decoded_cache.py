"""The cache of decoded pictures: hits, tenants, its bound, and a follow-up that decodes nothing."""

from pathlib import Path

import numpy as np
import pytest

from serve_app.contracts import Caller, ChatRequest, ImagePart, Message, Sampling, TextPart
from serve_app.metrics import SilentMeter
from serve_app.preprocess.decode import Header
from serve_app.preprocess.decoded_cache import DecodedCache, picture_key
from serve_app.preprocess.decoder_pool import DecodedPicture, ReadPicture
from serve_app.preprocess.prepare import Preprocessor
from serve_app.preprocess.size_rule import SizeRule
from serve_app.settings import ModelSettings, PreprocessSettings
from tests.preprocess.decoders import shared_decoders
from tests.preprocess.pictures import encoded, photo

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


@pytest.mark.parametrize(("tenant", "decodes"), [("one", False), ("two", True)])
async def test_a_follow_up_of_the_same_tenant_decodes_nothing(checkpoint: Path, tenant: str, decodes: bool) -> None:
    def asking(text: str, tenant: str) -> ChatRequest:
        parts = (ImagePart(encoded(photo(300, 200))), TextPart(text))
        return ChatRequest("r", (Message("user", parts),), Sampling(max_tokens=4), caller=Caller(tenant=tenant))

    stage = Preprocessor(
        ModelSettings(path=str(checkpoint)), PreprocessSettings(), SilentMeter(), decoders=shared_decoders()
    )
    first = await stage.prepare(asking("What?", "one"))
    second = await stage.prepare(asking("And who?", tenant))
    assert (second.pictures[0].pixels == first.pictures[0].pixels).all()
    assert second.pictures[0].digest == first.pictures[0].digest
    assert (second.stages_ms["resize"] > 0) == decodes
