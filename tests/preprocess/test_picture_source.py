import asyncio
import base64
import contextlib
import threading
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve_app.contracts import ImagePart
from serve_app.errors import ImageRejected
from serve_app.preprocess.data_url import decode_data_url, is_bare_base64
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.memory_budget import MemoryBudget, Reservation
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.picture_source import PictureSources
from serve_app.preprocess.public_address import resolve_host
from serve_app.settings import PreprocessSettings
from tests.preprocess.pictures import encoded, photo

LABEL = ImageLabel(1, "messages[0].content[0].image_url")


async def read(source: str) -> bytes:
    sources = PictureSources(Fetcher(PreprocessSettings()), 2**20)
    try:
        (file,) = await sources.read_all([ImagePart(source)], Reservation(MemoryBudget(2**30)))
        return file
    finally:
        await sources.close()


def test_a_data_url_is_decoded() -> None:
    payload = bytes(range(256))
    plain = "data:image/png;base64," + base64.b64encode(payload).decode()
    spaced = "data:image/png;name=a.png; base64 ,\n" + base64.b64encode(payload).decode().rstrip("=")
    escaped = "data:image/png;charset=utf-8;base64," + quote(base64.b64encode(payload).decode(), safe="")
    lines = "DATA:;BASE64," + base64.encodebytes(payload).decode()
    url_safe = "data:image/png;base64," + base64.urlsafe_b64encode(payload).decode()
    twice = "data:image/jpeg;base64," + plain
    for url in (plain, lines, spaced, escaped, url_safe, twice):
        assert decode_data_url(url, LABEL, 256) == payload


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:image/png;base64,abcde", "not valid base64"),
        ("data:image/png;base64,红灯", "not valid base64"),
        ("data:image/png;base64,ab.~", "not valid base64"),
        ("data:image/png;base64," * 3 + "abcd", "not valid base64"),
        ("data:image/png,abcd", "without base64"),
        ("data:image/png;base64", "without base64"),
        ("data:image/png;base64," + "A" * 5000, "the limit"),
    ],
)
def test_a_wrong_data_url_says_what_is_wrong(url: str, reason: str) -> None:
    with pytest.raises(ImageRejected, match=reason):
        decode_data_url(url, LABEL, 2048)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
async def test_bare_base64_of_a_picture_is_a_source(file_format: str) -> None:
    file = encoded(photo(20, 20), file_format)
    text = base64.encodebytes(file).decode()
    assert await read(text) == await read(text.replace("\n", "")) == file


@pytest.mark.parametrize(
    "text", ["", "hello", "/etc/passwd", "aGVsbG8gd29ybGQ=", "picture.png", "ftp://a.example/", "/9j"]
)
async def test_other_text_is_no_source(text: str) -> None:
    assert not is_bare_base64(text)
    with pytest.raises(ImageRejected, match=r"must be a data: URL, an http\(s\) address or the base64 of a picture"):
        await read(text)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
async def test_base64_whose_plus_signs_became_spaces_is_read(file_format: str) -> None:
    """As a form or a query changes them; a JPEG without these characters was decoded to a garbled picture."""
    file = encoded(photo(60, 50), file_format)
    text = base64.b64encode(file).decode()
    assert text.count("+") > 2
    assert await read("data:image/jpeg;base64," + text.replace("+", " ")) == file
    assert await read(text.replace("+", " ")) == file


@pytest.mark.parametrize("length", [64, 76])
async def test_lines_of_base64_that_spaces_separate_are_read(length: int) -> None:
    for seed in range(20):
        file = encoded(photo(8, 8, seed))
        text = base64.b64encode(file).decode()
        lines = [text[start : start + length] for start in range(0, len(text), length)]
        assert await read("data:;base64," + " ".join(lines)) == file


async def test_white_space_around_a_source_is_ignored() -> None:
    assert await read(" \ndata:;base64,aGVsbG8=\n") == b"hello"


async def test_base64_never_waits_for_the_threads_that_slow_names_hold() -> None:
    released = threading.Event()
    blocked = [asyncio.get_running_loop().run_in_executor(None, released.wait) for _ in range(64)]
    names = [asyncio.create_task(resolve_host("localhost", 80)) for _ in range(2)]
    large = base64.b64encode(bytes(600_000)).decode()
    assert await asyncio.wait_for(read("data:;base64," + large), 5) == bytes(600_000)
    assert all(await asyncio.wait_for(asyncio.gather(*names), 5))
    released.set()
    await asyncio.gather(*blocked)


@given(st.text())
def test_any_data_url_is_decoded_or_refused(payload: str) -> None:
    with contextlib.suppress(ImageRejected):
        decode_data_url("data:;base64," + payload, LABEL, 100)


@given(st.text("ABab01+/=é ", max_size=12))
def test_a_text_is_base64_exactly_when_the_library_says_so(payload: str) -> None:
    text = "".join(payload.split())
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    try:
        expected = base64.b64decode(padded, validate=True)
    except ValueError:
        with pytest.raises(ImageRejected, match="not valid base64"):
            decode_data_url(f"data:;base64,{payload}", LABEL, 1000)
    else:
        assert decode_data_url(f"data:;base64,{payload}", LABEL, 1000) == expected


@pytest.mark.parametrize("indent", ["   ", " ", "\t "])
@pytest.mark.parametrize("size", [40, 60, 76, 100])
async def test_base64_in_indented_lines_is_read(indent: str, size: int) -> None:
    picture = encoded(Image.new("RGB", (9, 9), (120, 90, size)), "PNG")
    text = base64.b64encode(picture).decode()
    lines = f"\n{indent}".join(text[at : at + size] for at in range(0, len(text), size))
    assert await read(f"data:image/png;base64,{lines}") == picture
