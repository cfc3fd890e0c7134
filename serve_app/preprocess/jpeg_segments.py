"""The marker segments of a JPEG: which of them make up the pixels, and how many scans it has."""

import re
from collections.abc import Iterator
from typing import Final

# In compressed data 0xFF is followed by zero or by a restart marker; between segments it may be repeated.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # how the pixels are coded
_COMMON_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # by DCT, baseline or progressive
_FIRST_WITH_LENGTH: Final = 0xC0  # libjpeg steps over those below without reading a length
_MOST_SEGMENTS: Final = 20_000  # cameras write up to 300
_APPLICATION: Final = range(0xE0, 0xF0)
_COMMENT: Final = 0xFE
# What is kept of the application's segments: (marker, beginning, least bytes of a sound one).
_READ: Final = (
    (0xE0, b"JFIF\0", 14),  # means YCbCr
    (0xE1, b"Exif\0\0", 6),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0", 29),  # may hold the orientation
    (0xEE, b"Adobe", 12),  # the colour space
)


def keep_pixel_segments(data: bytes) -> bytes:
    """The JPEG without profiles, previews and comments, on whose faults Pillow refuses the file.

    Raises ValueError if it has far more segments than any camera writes: each takes time, in libjpeg too.
    """
    kept: list[bytes] = []
    end = 0
    for number, (marker, start, after) in enumerate(_segments(data)):
        if marker == _START_OF_SCAN:
            break
        if number == _MOST_SEGMENTS:
            raise ValueError(f"more than {_MOST_SEGMENTS} segments")
        if not _is_read(marker, data[start + 4 : after]):
            kept.append(data[end:start])
            end = after
    return b"".join([*kept, data[end:]]) if kept else data


def count_scans(data: bytes) -> int:
    """How often a decoder passes over the pixels, at least 1; what follows the end mark is not counted."""
    return max(1, sum(marker == _START_OF_SCAN for marker, _, _ in _segments(data)))


def is_common(data: bytes) -> bool:
    """Whether the coding is one that libjpeg decodes: by DCT, of 8 bits; lossless and 12-bit files are rare."""
    for marker, start, _ in _segments(data):
        if marker in _FRAMES:
            return marker in _COMMON_FRAMES and data[start + 4 : start + 5] == b"\x08"
    return True  # damaged, which the decoder says


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, place of the marker, end) of each segment up to the end mark, as libjpeg finds them."""
    place = 2  # after the start mark
    while found := _MARKER.search(data, place):
        start, marker = found.start(), data[found.start() + 1]
        place = start + 2
        if marker in (_START_OF_IMAGE, _END_OF_IMAGE):
            return
        if marker >= _FIRST_WITH_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2]))
        yield marker, start, place


def _is_read(marker: int, content: bytes) -> bool:
    if marker not in _APPLICATION and marker != _COMMENT:
        return True
    return any(
        marker == read and content.startswith(beginning) and len(content) >= least for read, beginning, least in _READ
    )
