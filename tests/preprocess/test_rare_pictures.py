"""Pictures of scanners, cameras and Windows whose pixels mean something else than usual, and kinds that are refused."""

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageRejected
from serve_app.preprocess.decode import decode_picture, read_header
from tests.preprocess.decoders import LABEL, LIMITS
from tests.preprocess.pictures import encoded, photo

WIDTH, HEIGHT = 60, 40
COLOURS = np.asarray(photo(WIDTH, HEIGHT))
GREY = np.asarray(photo(WIDTH, HEIGHT).convert("L"))
FULL = (GREY.astype(int) * 65535 + 127) // 255
TYPES = {"H": 3, "I": 4}


def decoded(data: bytes) -> NDArray[np.int_]:
    header = read_header(data, LABEL, LIMITS)
    return np.asarray(decode_picture(data, header, LABEL, LIMITS.max_pixels)).astype(int)


def tiff(order: str, pixels: bytes, bits: list[int], photometric: int, samples: int = 1, kind: int = 1) -> bytes:
    """One strip without compression."""
    tags = {
        256: ("I", [WIDTH]),
        257: ("I", [HEIGHT]),
        258: ("H", bits),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [8]),
        277: ("H", [samples]),
        279: ("I", [len(pixels)]),
        339: ("H", [kind] * samples),
    }
    directory, after = b"", b""
    end = 8 + len(pixels) + 2 + 12 * len(tags) + 4
    for tag, (form, values) in tags.items():
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(packed) > 4:
            packed, after = struct.pack(f"{order}I", end + len(after)), after + packed
        directory += struct.pack(f"{order}HHI", tag, TYPES[form], len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + directory + bytes(4) + after


def twelve_bits(values: NDArray[np.int_]) -> bytes:
    even, odd = values[:, 0::2], values[:, 1::2]
    return np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8).tobytes()


def bitmap(alpha: int, header_bytes: int) -> bytes:
    """32 bits a pixel with a mask for alpha, as Windows' clipboard makes it."""
    pixels = np.dstack([COLOURS[::-1, :, ::-1], np.full((HEIGHT, WIDTH), alpha, np.uint8)]).tobytes()
    start = 14 + header_bytes
    file_header = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    header = struct.pack("<IiiHHIIiiII", header_bytes, WIDTH, HEIGHT, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return file_header + (header + masks).ljust(header_bytes, b"\0") + pixels


def test_a_grey_tiff_of_16_bits_whose_white_is_0_is_not_inverted() -> None:
    data = tiff("<", (65535 - FULL).astype("<u2").tobytes(), [16], photometric=0)
    assert np.abs(decoded(data) - GREY).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_grey_tiff_of_16_bits_is_as_bright_as_one_of_8(order: str) -> None:
    data = tiff(order, FULL.astype(f"{order}u2").tobytes(), [16], photometric=1)
    assert np.abs(decoded(data) - GREY).max() <= 1


def test_a_grey_tiff_of_12_bits_is_as_bright_as_one_of_8() -> None:
    data = tiff("<", twelve_bits(FULL >> 4), [12], photometric=1)
    assert np.abs(decoded(data) - GREY).max() <= 1


def test_the_transparent_grey_of_a_16_bit_png_is_white() -> None:
    wide = np.where(GREY < 100, 7, FULL)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 0, 0, 0, 0)),
        (b"tRNS", b"\0\7"),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide))),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    assert np.abs(decoded(data) - np.where(GREY < 100, 255, GREY)).max() <= 1


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize("alpha", [0, 255])
def test_a_screenshot_of_windows_without_alpha_is_not_an_empty_picture(alpha: int, header_bytes: int) -> None:
    assert (decoded(bitmap(alpha, header_bytes)) == COLOURS).all()


def test_a_tiff_that_is_transparent_everywhere_shows_its_colours() -> None:
    pixels = np.dstack([COLOURS, np.zeros((HEIGHT, WIDTH), np.uint8)]).tobytes()
    assert (decoded(tiff("<", pixels, [8] * 4, photometric=2, samples=4)) == COLOURS).all()


def test_a_png_that_is_transparent_everywhere_is_white() -> None:
    pixels = np.dstack([COLOURS, np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert (decoded(encoded(Image.fromarray(pixels))) == 255).all()


JPEG = encoded(Image.fromarray(COLOURS), "JPEG")
FLOATS = tiff("<", (COLOURS / 255).astype("<f4").tobytes(), [32] * 3, photometric=2, samples=3, kind=3)
RARE = {
    "lossless": JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1),
    "hierarchical": JPEG.replace(b"\xff\xc0", b"\xff\xc5", 1),
    "12 bits": JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", 1),
    "TIFF of floats": FLOATS,
    "Apple's PNG": b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI\x50\0\x20\2\x2b\xd5\xb3\x7f" + encoded(Image.fromarray(COLOURS))[8:],
    "bitmap of 2 bits": bitmap(0, 56).replace(b"\1\0\x20\0\3", b"\1\0\2\0\0", 1),
}


@pytest.mark.parametrize("kind", RARE)
def test_a_complete_file_of_a_rare_kind_is_not_called_damaged(kind: str) -> None:
    with pytest.raises(ImageRejected, match=r"of a rare kind that this service can't read\. Save it as an"):
        decoded(RARE[kind])


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_grey_values_are_refused_by_their_name(order: str) -> None:
    data = tiff(order, (FULL >> 1).astype(f"{order}i2").tobytes(), [16], photometric=1, kind=2)
    with pytest.raises(ImageRejected, match="32-bit or signed pixels"):
        decoded(data)
