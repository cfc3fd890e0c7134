"""PDFs: each page is a picture at the place of its file, with its source."""

import base64
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.contracts import (
    ChatRequest,
    ImagePart,
    Message,
    Pages,
    Part,
    PictureSource,
    Prompt,
    Sampling,
    TextPart,
)
from serve_app.errors import ImageRejected, InvalidRequest
from serve_app.metrics import SilentMeter
from serve_app.preprocess.decode import Header
from serve_app.preprocess.prepare import Preprocessor
from serve_app.settings import ModelSettings, PreprocessSettings
from tests.preprocess.decoders import LABEL, LIMITS, shared_decoders
from tests.preprocess.pictures import encoded, photo

PAGES = [photo(240, 160, seed) for seed in range(4)]


def document(pages: int = 3, **options: object) -> bytes:
    """A PDF whose pages are photographs of 240 x 160 pixels at 72 dpi."""
    first, *others = PAGES[:pages] if pages <= len(PAGES) else [PAGES[0]] * pages
    return encoded(first, "PDF", save_all=True, append_images=others, quality=95, **options)


def file(source: bytes | str, *ranges: tuple[int, int | None]) -> ImagePart:
    return ImagePart(source, "file", pages=Pages(ranges) if ranges else None, noun="File")


def stage(folder: Path, **knobs: object) -> Preprocessor:
    limits = PreprocessSettings(**{"pdf_dpi": 72, **knobs})
    return Preprocessor(ModelSettings(path=str(folder)), limits, SilentMeter(), decoders=shared_decoders())


async def prepared(folder: Path, *parts: Part, **knobs: object) -> Prompt:
    request = ChatRequest("r1", (Message("user", (*parts, TextPart("?"))),), Sampling())
    return await stage(folder, **knobs).prepare(request)


async def test_each_page_is_a_picture_with_its_source(checkpoint: Path) -> None:
    picture = encoded(photo(300, 200))
    prompt = await prepared(checkpoint, ImagePart(picture), file(document()), ImagePart(picture))
    sources = [seen.source for seen in prompt.pictures]
    assert sources == [PictureSource(0), *(PictureSource(1, page) for page in (1, 2, 3)), PictureSource(2)]
    assert [seen.original_size for seen in prompt.pictures[1:4]] == [(240, 160)] * 3
    image_token = json.loads((checkpoint / "config.json").read_text())["image_token_id"]
    assert int((prompt.token_ids == image_token).sum()) == prompt.image_tokens
    direct = await prepared(checkpoint, *map(ImagePart, map(encoded, PAGES[:3])))
    for page, same in zip(prompt.pictures[1:4], direct.pictures, strict=True):
        assert np.abs(page.pixels.astype(int) - same.pixels).mean() < 15  # another page: over 60


async def test_a_range_of_pages_is_shown(checkpoint: Path) -> None:
    prompt = await prepared(checkpoint, file(document(4), (2, 3)), max_pdf_pages=2)
    assert [seen.source for seen in prompt.pictures] == [PictureSource(0, 2), PictureSource(0, 3)]


async def test_a_pdf_as_a_picture_is_found_by_its_bytes(checkpoint: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(document(2)).decode()
    for source in (document(2), url, url.partition(",")[2], b"\n\n" + document(2)):
        assert len((await prepared(checkpoint, ImagePart(source))).pictures) == 2


async def test_a_picture_as_a_file_is_one_picture(checkpoint: Path) -> None:
    (seen,) = (await prepared(checkpoint, file(encoded(photo(300, 200))))).pictures
    assert seen.source == PictureSource(0)


async def test_the_resolution_is_a_setting(checkpoint: Path) -> None:
    (seen,) = (await prepared(checkpoint, file(document(1)), pdf_dpi=144)).pictures
    assert seen.original_size == (480, 320)
    assert seen.pixels.shape == (308, 476, 3)


async def test_a_document_is_tokenized_as_it_is_prepared(checkpoint: Path) -> None:
    request = ChatRequest("r1", (Message("user", (file(document()), TextPart("?"))),), Sampling())
    prompt = await stage(checkpoint).prepare(request)
    assert (await stage(checkpoint).tokenize(request)).token_ids == tuple(prompt.token_ids.tolist())


@pytest.mark.parametrize(
    ("part", "knobs", "reason"),
    [
        (file(document(3)), {"max_pdf_pages": 2}, r"File 1 gives 3 pages; the limit is 2"),
        (file(b"%PDF-1.7 nothing"), {}, r"damaged or incomplete PDF"),
        (file(document(1)), {"max_image_pixels": 30_000}, r"Page 1 of file 1 is 0.0384 megapixels \(240 x 160\)"),
        (file(document(1)), {"max_image_bytes": 1000}, r"the limit is 0.000954"),
    ],
)
async def test_a_document_is_refused_in_words(
    checkpoint: Path, part: ImagePart, knobs: dict[str, int], reason: str
) -> None:
    with pytest.raises(ImageRejected, match=reason) as refused:
        await prepared(checkpoint, part, **knobs)
    assert refused.value.param == "file"


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (file(document(3), (2, 9)), "File 1 has 3 pages; 'pages' asks for pages 2 to 9."),
        (file(document(3), (1, 1), (4, 4)), "File 1 has 3 pages; 'pages' asks for page 4."),
        (file(document(3), (4, None)), "File 1 has 3 pages; 'pages' asks for pages 4 to the end."),
        (file(document(1), (0, 1)), "File 1 has 1 page; 'pages' asks for pages 0 to 1."),
        (file(document(3), (3, 2)), "File 1 has 3 pages; 'pages' asks for pages 3 to 2."),
        (file(encoded(photo(60, 60)), (1, 1)), "File 1 is no PDF, and only a PDF has pages. Leave them out."),
    ],
)
async def test_pages_that_a_file_lacks_are_refused_under_their_own_field(
    checkpoint: Path, part: ImagePart, reason: str
) -> None:
    with pytest.raises(ImageRejected) as refused:
        await prepared(checkpoint, part)
    assert (refused.value.message, refused.value.param) == (reason, "pages")


RANGES = st.lists(
    st.tuples(st.integers(1, 4), st.none() | st.integers(1, 4)).filter(
        lambda ends: ends[1] is None or ends[0] <= ends[1]
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(RANGES)
async def test_the_pages_of_all_ranges_are_shown_in_their_order_and_each_once(
    ranges: list[tuple[int, int | None]],
) -> None:
    pool = shared_decoders()
    sizes = await pool.measure_pages(FOUR_PAGES, Pages(tuple(ranges)), 4, LABEL, LIMITS)
    expected = dict.fromkeys(page for first, last in ranges for page in range(first, (last or 4) + 1))
    assert [page for page, _, _ in sizes] == list(expected)


async def test_pages_count_as_pictures_of_the_request(checkpoint: Path, checkpoint_9b: Path) -> None:
    with pytest.raises(InvalidRequest, match="The request has 4 pictures; the limit is 3"):
        await prepared(checkpoint, ImagePart(encoded(photo(60, 60))), file(document(3)), max_images=3)
    with pytest.raises(InvalidRequest, match="2 pictures; the served model accepts at most 1"):
        await prepared(checkpoint_9b, file(document(2)))
    assert len((await prepared(checkpoint_9b, file(document(2), (2, 2)))).pictures) == 1


FOUR_PAGES = document(4)


def blank(width: float, height: float) -> bytes:
    """One empty page of this size in points."""
    body = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {width} {height}]>>"
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj" + body.encode() + b"endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    )


async def test_an_empty_page_is_white_and_a_huge_one_is_refused_before_it_is_rendered(checkpoint: Path) -> None:
    (seen,) = (await prepared(checkpoint, file(blank(300, 200)))).pictures
    assert seen.pixels.min() == 255
    with pytest.raises(ImageRejected, match=r"Page 1 of file 1 is 207 megapixels"):
        await prepared(checkpoint, file(blank(14400, 14400)))


SEEDS = [document(2), blank(300, 200)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    st.floats(0.1, 1),
)
async def test_mutated_documents_are_read_or_refused(seed: bytes, changes: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[5 + int(place * (len(data) - 5))] = value
    file = bytes(data[: int(cut * len(data))])
    pool = shared_decoders()
    with contextlib.suppress(ImageRejected):
        for page, _, _ in await pool.measure_pages(file, None, 4, LABEL, LIMITS):
            header = Header("PDF", 300, 200, orientation=1, page=page)
            decoded = await pool.decode(file, header, (56, 28), LABEL, LIMITS, 5.0)
            assert decoded.pixels.shape == (28, 56, 3)
