"""Pictures and documents that cost far more to decode than their bytes let expect, and a bystander."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from PIL import Image

from tests.cluster.attacks import LEFT, post, watched_memory
from tests.cluster.bystander import Bystander, bystander
from tests.cluster.conftest import Service
from tests.preprocess.hostile import flat_webp, jpeg_of_scans, run_length_bmp, tiff_of_strips
from tests.preprocess.pictures import bomb, encoded

pytestmark = pytest.mark.cluster

WITHIN_S = 6.0  # how long a refused attacker may be kept waiting on a busy machine


@pytest.fixture(autouse=True)
def _memory(service: Service, request: pytest.FixtureRequest) -> Iterator[None]:
    with watched_memory(service, request.node.name):
        yield


def url(file: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def shown(file: bytes, times: int = 1, **fields: Any) -> dict[str, Any]:
    """A request with a picture, several times."""
    parts = [{"type": "image_url", "image_url": {"url": url(file)}}] * times
    return {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}],
        "max_tokens": 1,
        **fields,
    }


def document(file: bytes) -> dict[str, Any]:
    part = {
        "type": "file",
        "file": {"file_data": url(file).replace("image/png", "application/pdf"), "filename": "a.pdf"},
    }
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}], "max_tokens": 1}


def animation(file_format: str, side: int, frames: int) -> bytes:
    images = [Image.new("P" if file_format == "GIF" else "RGB", (side, side), n) for n in range(frames)]
    return encoded(images[0], file_format, save_all=True, append_images=images[1:], lossless=True)


def png_with_profile(size: int) -> bytes:
    """A PNG whose colour profile is a few hundred KB that unpack to `size` bytes."""
    file = encoded(Image.new("RGB", (64, 64)))
    chunk = b"iCCPx\0\0" + zlib.compress(bytes(size), 9)
    return file[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + file[33:]


def pdf(pages: int, side: int = 600, content: bytes = b"") -> bytes:
    """A PDF of square pages with the same content; readers rebuild its missing table."""
    kids = b" ".join(b"%d 0 R" % (4 + n) for n in range(pages))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, kids),
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        *[b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]/Contents 3 0 R>>" % (side, side)] * pages,
    ]
    body = b"".join(b"%d 0 obj%s endobj\n" % (number, each) for number, each in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer<</Root 1 0 R>>\n%%EOF"


@cache
def large(file_format: str, **options: Any) -> bytes:
    return encoded(Image.new("RGB", (7000, 7000), "white"), file_format, **options)


REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "progressive JPEG of 1,500 scans": lambda: shown(jpeg_of_scans(1500, 400, 300)),
    "BMP with run lengths": lambda: shown(run_length_bmp()),
    "lossless WebP of 50 megapixels, 16 times": lambda: shown(flat_webp(), 16, n=8),
    "TIFF of a million strips": lambda: shown(tiff_of_strips(1_000_000)),
    "PNG of 900 megapixels": lambda: shown(bomb()),
    "PDF of 10,000 pages": lambda: document(pdf(10_000)),
    "PDF with a page of 200 inches": lambda: document(pdf(1, side=14_400)),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_a_file_that_would_take_too_long_is_refused_by_its_header(
    service: Service, undisturbed: Bystander, attack: str
):
    """The JPEG held everybody for 28 to 36 s, the BMPs 4 s each, the WebPs 32 to 44 s."""
    body = REFUSED[attack]()
    with bystander(service.base_url, undisturbed, least_s=3.0):
        assert set(post(service, 4, json=body)) == {400}


ACCEPTED: dict[str, Callable[[], dict[str, Any]]] = {
    "JPEG of 90 scans": lambda: shown(jpeg_of_scans(90), 2),
    "lossless WebP of 50 megapixels": lambda: shown(flat_webp(), 4, n=8),
    "BMP with run lengths below the limit": lambda: shown(run_length_bmp(1990, 1990), 4),
    "PNG of 49 megapixels": lambda: shown(large("PNG"), 2),
    "TIFF of 49 megapixels": lambda: shown(large("TIFF", compression="tiff_deflate"), 2),
    "AVIF of 49 megapixels": lambda: shown(large("AVIF", speed=10)),
    "GIF of 200 frames": lambda: shown(animation("GIF", 1000, 200)),
    "WebP of 60 frames": lambda: shown(animation("WEBP", 700, 60)),
    "PNG of 100 frames": lambda: shown(animation("PNG", 700, 100)),
    "PNG with a profile of 500 MB": lambda: shown(png_with_profile(500_000_000), 4),
    "PDF with a page of 400,000 operators": lambda: document(
        pdf(1, 1000, b"0 0 900 900 re f 1 0 0 1 .001 0 cm " * 400_000)
    ),
}


@pytest.mark.parametrize("attack", ACCEPTED)
def test_expensive_files_delay_nobody_else(service: Service, undisturbed: Bystander, attack: str):
    """They are answered, or refused when their CPU budget is spent."""
    body = ACCEPTED[attack]()
    with bystander(service.base_url, undisturbed, least_s=3.0):
        assert set(post(service, 4, WITHIN_S, json=body)) <= {200, 400, 503, LEFT}


@pytest.mark.parametrize("file", ["WebP", "JPEG"])
def test_work_for_a_client_that_has_left_delays_nobody(service: Service, undisturbed: Bystander, file: str):
    body = shown(flat_webp(), 5, n=8) if file == "WebP" else shown(jpeg_of_scans(90, 2400, 1800), 4)
    post(service, 8, 0.5, json=body)
    with bystander(service.base_url, undisturbed, least_s=3.0):
        pass


def test_many_pictures_to_encode_delay_nobody(service: Service, undisturbed: Bystander):
    """The engine encoded all pictures of all prompts before anything else: others waited for 12 s."""
    pictures = [encoded(Image.effect_noise((600, 600), 50 + n).convert("RGB"), "JPEG") for n in range(16)]
    parts = [{"type": "image_url", "image_url": {"url": url(each), "detail": "low"}} for each in pictures]
    body = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], "max_tokens": 1}
    with bystander(service.base_url, undisturbed, least_s=3.0):
        assert set(post(service, 4, WITHIN_S, json=body)) <= {200, LEFT}
