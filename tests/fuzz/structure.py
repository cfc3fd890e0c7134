"""The parts of picture files: where they begin and end, and how a changed file gets its checksums and sizes right.

`parts` finds what a parser of the format treats as one thing (chunks, markers, boxes, entries), in files that may be
damaged already. The mutations in pictures.py change, drop, repeat and exchange them.
"""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from serve_app.preprocess.sniff import known_format

Parts = list[tuple[int, int]]  # (start, end)

_BOXES_WITH_BOXES = {b"meta": 12, b"iprp": 8, b"ipco": 8, b"moov": 8, b"trak": 8, b"iinf": 14, b"dinf": 8}


def format_of(data: bytes) -> str:
    return "PDF" if data[:1024].find(b"%PDF-") >= 0 else known_format(data) or ""


def parts(data: bytes) -> Parts:
    """The parts of a file in their order, the file's first bytes among them."""
    find = _FINDERS.get(format_of(data), _lines)
    return [(start, min(end, len(data))) for start, end in find(data) if start < len(data) and end > start]


def repaired(data: bytes) -> bytes:
    """The file with right checksums (PNG) or the right size (RIFF), so that parsers read what was changed."""
    match format_of(data):
        case "PNG":
            fixed = bytearray(data)
            for start, end in _png(data):
                if end <= len(data) and end - start >= 12:
                    fixed[end - 4 : end] = struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
            return bytes(fixed)
        case "WebP":
            return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
        case _:
            return data


def _png(data: bytes) -> Iterator[tuple[int, int]]:
    start = 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield start, end
        start = end


def _jpeg(data: bytes) -> Iterator[tuple[int, int]]:
    starts = [found.start() for found in re.finditer(rb"\xff[\xc0-\xcf\xd8-\xfe]", data)]
    yield from itertools.pairwise([*starts, len(data)])


def _gif(data: bytes) -> Iterator[tuple[int, int]]:
    yield 0, 13
    starts = [found.start() for found in re.finditer(rb"\x21[\xf9\xfe\xff\x01]|\x2c\0\0\0\0", data)]
    yield from itertools.pairwise([*starts, len(data)])


def _riff(data: bytes) -> Iterator[tuple[int, int]]:
    yield 0, 12
    start = 12
    while start < len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        end = start + 8 + size + size % 2
        yield start, end
        start = end


def _bmp(data: bytes) -> Iterator[tuple[int, int]]:
    header = 14 + int.from_bytes(data[14:18], "little")
    yield from ((0, 14), (14, header), (header, int.from_bytes(data[10:14], "little")))
    yield int.from_bytes(data[10:14], "little"), len(data)


def _tiff(data: bytes) -> Iterator[tuple[int, int]]:
    yield 0, 8
    order = "little" if data[:2] == b"II" else "big"
    place = int.from_bytes(data[4:8], order)
    for _ in range(4):  # directories
        if not 0 < place < len(data):
            return
        entries = int.from_bytes(data[place : place + 2], order)
        yield place, place + 2
        for entry in range(min(entries, 64)):
            yield place + 2 + 12 * entry, place + 14 + 12 * entry
        place = int.from_bytes(data[place + 2 + 12 * entries : place + 6 + 12 * entries], order)


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big") or end - start
        inner = _BOXES_WITH_BOXES.get(data[start + 4 : start + 8])
        yield start, start + (inner or size)
        if inner is not None and size > inner:
            yield from _boxes(data, start + inner, min(start + size, end))
        start += max(size, 8)


def _pdf(data: bytes) -> Iterator[tuple[int, int]]:
    starts = [found.start() for found in re.finditer(rb"\d+ \d+ obj|xref|trailer|stream|/\w+|\d+", data)]
    yield from itertools.pairwise([*starts, len(data)])


def _lines(data: bytes) -> Iterator[tuple[int, int]]:
    yield from ((start, start + 16) for start in range(0, len(data), 16))


_FINDERS: dict[str, Callable[[bytes], Iterator[tuple[int, int]]]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "WebP": _riff,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": _boxes,
    "HEIC": _boxes,
    "PDF": _pdf,
}
