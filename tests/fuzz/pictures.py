"""Picture files: valid ones of each format and kind, and what mutations make of them."""

from __future__ import annotations

import functools
import re
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.forms import form
from tests.fuzz.service import Case
from tests.fuzz.structure import format_of, parts, repaired
from tests.preprocess.pictures import encoded, photo

_NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 100, 127, 128, 255, 256, 4000, 16383, 32767, 32768, 65500, 65535, 65536)
_LARGE = (2**24, 2**31 - 1, 2**31, 2**32 - 1)
_HEIC = Path(__file__).parent.parent / "preprocess" / "heic"


@functools.cache
def seeds() -> dict[str, list[bytes]]:
    """Valid files of a few kilobytes by format."""
    found: dict[str, list[bytes]] = {}
    for data in _seeds():
        found.setdefault(format_of(data), []).append(data)
    return found


def _seeds() -> list[bytes]:
    rgb, other = photo(40, 30), photo(40, 30, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    few, grey, alpha, cmyk = rgb.quantize(16), rgb.convert("L"), rgb.convert("RGBA"), rgb.convert("CMYK")
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb, "JPEG", {"restart_marker_rows": 1, "subsampling": 0}),
        (cmyk, "JPEG", {}),
        (grey, "JPEG", {}),
        (rgb, "PNG", {"exif": exif}),
        (few, "PNG", {"transparency": 3}),
        (alpha, "PNG", {}),
        (grey.convert("I;16"), "PNG", {}),
        (grey.convert("1"), "PNG", {}),
        (rgb, "PNG", {"save_all": True, "append_images": [other]}),
        (rgb, "WebP", {"exif": exif}),
        (alpha, "WebP", {"lossless": True}),
        (alpha, "WebP", {}),
        (rgb, "WebP", {"save_all": True, "append_images": [other]}),
        (few, "GIF", {"save_all": True, "append_images": [other], "transparency": 1}),
        (grey, "GIF", {"interlace": 1}),
        (rgb, "BMP", {}),
        (few, "BMP", {}),
        (grey.convert("1"), "BMP", {}),
        (rgb, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "TIFF", {"compression": "tiff_deflate"}),
        (rgb, "TIFF", {"compression": "packbits"}),
        (rgb, "TIFF", {"compression": "jpeg"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (cmyk, "TIFF", {}),
        (rgb, "TIFF", {"big_tiff": True}),
        (rgb, "AVIF", {"speed": 10, "exif": exif}),
        (alpha, "AVIF", {"speed": 10}),
        (rgb, "PDF", {"save_all": True, "append_images": [other]}),
    ]
    files = [encoded(image, kind, **options) for image, kind, options in kinds]
    return [*files, *(path.read_bytes() for path in sorted(_HEIC.glob("*.heic"))), run_length_bmp(), drawn_pdf()]


def run_length_bmp() -> bytes:
    body = b"\x05\x01\x00\x03\x02\x03\x04\x00\x00\x00\x28\x07\x00\x01"
    info = struct.pack("<IiiHHIIiiII", 40, 40, 30, 1, 8, 1, len(body), 0, 0, 4, 0)
    palette = bytes(range(16))
    return b"BM" + struct.pack("<IHHI", 70 + len(body), 0, 0, 70) + info + palette + body


def drawn_pdf() -> bytes:
    """A page with text, lines, a shading, a form field and a note."""
    content = b"q 1 0 0 RG 5 w 10 10 m 90 90 l S Q /S1 sh BT /F1 24 Tf 10 40 Td (Ship 42) Tj ET 0 0 20 20 re f"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[6 0 R]>>>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 100 100]/Rotate 90/Contents 4 0 R/Annots[6 0 R 7 0 R]"
        b"/Resources<</Font<</F1 5 0 R>>/Shading<</S1 8 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(b)/DA(/F1 9 Tf)/Rect[5 5 50 20]>>",
        b"<</Type/Annot/Subtype/Square/Rect[60 60 80 80]/C[1 0 0]>>",
        b"<</ShadingType 2/ColorSpace/DeviceRGB/Coords[0 0 100 100]/Function<</FunctionType 2/Domain[0 1]"
        b"/C0[1 1 0]/C1[0 0 1]/N 1>>>>",
    ]
    data, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj" % number + content + b"endobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    tail = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(data))
    return data + head + table + tail


def mutated(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """The file after one to four changes; `others` are files of the same format, from which parts are taken."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_MUTATIONS)(rng, data, rng.choice(others))
    return repaired(data) if rng.random() < 0.7 else data


def _number(rng: Random, data: bytes, other: bytes) -> bytes:
    """Another number in a field: near the start of a part, where headers are."""
    start, end = _part(rng, data)
    if format_of(data) == "PDF":
        numbers = list(re.finditer(rb"\d+", data))
        if not numbers:
            return data
        found = rng.choice(numbers)
        return data[: found.start()] + str(_value(rng, data)).encode() + data[found.end() :]
    place = min(start + int(rng.random() ** 2 * min(end - start, 64)), max(len(data) - 1, 0))
    size = rng.choice((1, 2, 4))
    value = _value(rng, data) % 2 ** (8 * size)
    return data[:place] + value.to_bytes(size, rng.choice(("big", "little"))) + data[place + size :]


def _value(rng: Random, data: bytes) -> int:
    if rng.random() < 0.2:
        return max(0, len(data) + rng.choice((-1, 0, 1)))
    return rng.choice(_NUMBERS if rng.random() < 0.8 else _LARGE)


def _drop(rng: Random, data: bytes, other: bytes) -> bytes:
    start, end = _part(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: Random, data: bytes, other: bytes) -> bytes:
    start, end = _part(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 40)) + data[end:]


def _swap(rng: Random, data: bytes, other: bytes) -> bytes:
    (start, end), (to, _) = _part(rng, data), _part(rng, data)
    moved, rest = data[start:end], data[:start] + data[end:]
    return rest[:to] + moved + rest[to:]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    (start, end), (first, last) = _part(rng, data), _part(rng, other)
    return data[:start] + other[first:last] + data[end:]


def _flip(rng: Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _noise(rng: Random, data: bytes, other: bytes) -> bytes:
    start, end = _part(rng, data)
    place = rng.randrange(start, end) if end > start else start
    return data[:place] + rng.randbytes(rng.choice((1, 3, 16, 64))) + data[place + rng.choice((0, 16)) :]


def _cut(rng: Random, data: bytes, other: bytes) -> bytes:
    start, end = _part(rng, data)
    return data[: rng.choice((start, end, (start + end) // 2))]


def _pixels(rng: Random, data: bytes, other: bytes) -> bytes:
    """Other bytes below the compression of a PNG: filter types, rows too short or too long."""
    for start, end in parts(data):
        if data[start + 4 : start + 8] == b"IDAT" and format_of(data) == "PNG":
            try:
                rows = zlib.decompress(data[start + 8 : end - 4])
            except zlib.error:
                return data
            body = zlib.compress(_flip(rng, rows, b"")[: rng.choice((len(rows), len(rows) // 2))])
            chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
            return data[:start] + chunk + data[end:]
    return _flip(rng, data, other)


def _part(rng: Random, data: bytes) -> tuple[int, int]:
    found = parts(data)
    return rng.choice(found) if found else (0, len(data))


_MUTATIONS = (_number, _number, _number, _drop, _repeat, _swap, _splice, _flip, _noise, _cut, _pixels)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A mutated file of any format; one in twenty only begins like one."""
    rng = draw(st.randoms(use_true_random=False))
    others = seeds()[rng.choice(sorted(seeds()))]
    data = rng.choice(others)
    return data[:12] + rng.randbytes(200) if rng.random() < 0.05 else mutated(rng, data, others)


def as_case(file: bytes) -> Case:
    """A question about an uploaded file."""
    return form([("question", None, b"How many?"), ("image", "a", file)])


def cases() -> st.SearchStrategy[Case]:
    return files().map(as_case)
