"""Files with the small faults that browsers show, and files that lack pixels, which are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps, PngImagePlugin

from serve_app.errors import ImageRejected
from serve_app.preprocess.decode import decode_picture, read_header
from serve_app.preprocess.tolerant import keep_pixel_chunks
from tests.preprocess.decoders import LABEL, LIMITS
from tests.preprocess.pictures import encoded, photo

HEIC = Path(__file__).with_name("heic")  # encoded once by pillow-heif 1.8.1, which the service does not need
PICTURE = photo(160, 120)
PNG = encoded(PICTURE)
NOISE = np.random.default_rng(0).bytes


def decoded(data: bytes) -> Image.Image:
    return decode_picture(data, read_header(data, LABEL, LIMITS), LABEL, LIMITS.max_pixels)


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def with_chunk(made: bytes, png: bytes = PNG) -> bytes:
    """The chunk directly after the header."""
    return png[:33] + made + png[33:]


@pytest.mark.parametrize("size", [1_100_000, 1_500_000, 5_000_000])
@pytest.mark.parametrize("kind", ["profile", "compressed text", "text"])
def test_large_metadata_of_a_png_is_no_damage(kind: str, size: int) -> None:
    info = PngImagePlugin.PngInfo()
    if kind != "profile":
        info.add_text("Comment", "x" * size, zip=kind == "compressed text")
    profile = {"icc_profile": NOISE(size)} if kind == "profile" else {}
    data = encoded(PICTURE, pnginfo=info, **profile)
    assert decoded(data).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"pHYs", b"tIME", b"eXIf", b"abCd"])
@pytest.mark.parametrize("data", [b"", b"x", NOISE(40)])
def test_a_damaged_side_chunk_of_a_png_is_ignored(kind: bytes, data: bytes) -> None:
    assert decoded(with_chunk(chunk(kind, data, checksum=0))).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
@pytest.mark.parametrize("kind", [b"tRNS", b"eXIf"])
@pytest.mark.parametrize("length", [0, 1, 5, 7, 300])
def test_a_side_chunk_of_a_png_with_a_wrong_length_is_ignored(mode: str, kind: bytes, length: int) -> None:
    picture = PICTURE.quantize(16) if mode == "P" else PICTURE.convert(mode)
    png = encoded(picture)
    made = chunk(kind, NOISE(length))
    before_pixels = png.index(b"IDAT") - 4
    assert decoded(png[:before_pixels] + made + png[before_pixels:]).size == picture.size


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=4, max_size=4).filter(lambda kind: kind[0] & 32), st.binary(max_size=64), st.integers(0, 1))
def test_any_side_chunk_of_a_png_is_ignored_or_read(kind: bytes, data: bytes, right: int) -> None:
    made = chunk(kind, data, None if right else 1)
    assert decoded(with_chunk(made)).size == PICTURE.size


def test_a_png_without_a_header_is_refused() -> None:
    with pytest.raises(ImageRejected):
        decoded(PNG[:8] + chunk(b"tRNS", b""))


def test_transparency_and_rotation_of_a_png_are_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(PICTURE.quantize(16), transparency=3, exif=exif)
    assert decoded(turned).size == (120, 160)
    assert keep_pixel_chunks(turned).count(b"tRNS") == 1


def test_a_png_without_its_end_chunk_is_read() -> None:
    assert decoded(PNG[:-12]).tobytes() == PICTURE.tobytes()


@pytest.mark.parametrize("cut", [100, 1000, 5000])
def test_a_png_that_lacks_pixels_is_refused(cut: int) -> None:
    with pytest.raises(ImageRejected, match="damaged or incomplete PNG"):
        decoded(PNG[:-cut])


def test_a_png_with_a_wrong_checksum_of_its_header_is_refused() -> None:
    with pytest.raises(ImageRejected, match="damaged or incomplete PNG"):
        decoded(PNG[:29] + b"abcd" + PNG[33:])


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 4},
    "subsampled": {"subsampling": 2},
    "full colour": {"subsampling": 0, "quality": 95},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("size", [(160, 120), (161, 123), (8, 8), (640, 480)])
def test_a_jpeg_that_lacks_only_its_end_mark_is_read(kind: str, size: tuple[int, int]) -> None:
    for mode in ("RGB", "L"):
        complete = encoded(photo(*size).convert(mode), "JPEG", **JPEGS[kind])
        for data in (complete[:-2], complete[:-1]):
            assert decoded(data).tobytes() == Image.open(io.BytesIO(complete)).tobytes()


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_jpeg_that_lacks_pixels_is_refused(kind: str, share: float) -> None:
    complete = encoded(PICTURE, "JPEG", **JPEGS[kind])
    with pytest.raises(ImageRejected, match="damaged or incomplete JPEG"):
        decoded(complete[: int(share * len(complete))])


@pytest.mark.parametrize("file_format", ["AVIF", "HEIC"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_formats_of_phones_are_read(file_format: str, mode: str) -> None:
    image = photo(200, 120).filter(ImageFilter.GaussianBlur(3)).convert(mode)
    heic = (HEIC / f"{mode}.heic").read_bytes()
    found = decoded(heic if file_format == "HEIC" else encoded(image, "AVIF", quality=95))
    assert found.size == (200, 120)
    apart = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(image.convert("RGB"), int))
    assert apart.mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_avif_is_seen_upright(orientation: int) -> None:
    marked = Image.new("RGB", (96, 64), "white")
    marked.paste("black", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(marked, "PNG", exif=exif))))
    found = decoded(encoded(marked, "AVIF", quality=95, exif=exif))
    assert found.size == expected.size
    assert np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(expected.convert("RGB"), int)).mean() < 8


def test_the_exif_rotation_of_a_heic_is_ignored_as_its_standard_says() -> None:
    assert decoded((HEIC / "exif-rotation.heic").read_bytes()).size == (200, 120)
