"""Pictures that cost far more to decode than their bytes let expect."""

import functools
import re
import struct

from PIL import Image

from tests.preprocess.pictures import encoded, photo

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # after the entropy-coded data of a scan


@functools.cache
def jpeg_of_scans(scans: int, width: int = 1600, height: int = 1200) -> bytes:
    """A progressive JPEG whose second scan comes again and again; decoders only warn of it."""
    data = encoded(photo(width, height), "JPEG", progressive=True, quality=30)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    begin = data.rindex(b"\xff\xc4", 0, starts[1])  # with its Huffman table
    after = _NEXT_MARKER.search(data, starts[1] + 4)
    assert after is not None
    again = data[begin : after.start()]
    return data[: after.start()] + again * (scans - len(starts)) + data[after.start() :]


@functools.cache
def flat_webp(width: int = 8192, height: int = 6144) -> bytes:
    """A lossless WebP of one colour: a few hundred bytes."""
    return encoded(Image.new("RGB", (width, height), "white"), "WebP", lossless=True, method=0)


def run_length_bmp(width: int = 8000, height: int = 6000) -> bytes:
    """A BMP of 8 bits with run lengths whose rows are all cut short, which Pillow fills in Python, byte by byte."""
    body = b"\x01\x00\x00\x00" * height + b"\x00\x01"
    palette = b"".join(bytes((n, n, n, 0)) for n in range(256))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + info + palette + body


def tiff_of_strips(strips: int, big: bool = False) -> bytes:
    """A TIFF or BigTIFF with a strip for each of its rows, all at the same place."""
    start = 256
    tags = [(256, 16), (257, strips), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    fields = sorted([(tag, 4, 1, value) for tag, value in tags] + [(273, 4, strips, start), (279, 4, strips, start)])
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    directory = struct.pack("<Q" if big else "<H", len(fields))
    directory += b"".join(struct.pack("<HHQQ" if big else "<HHII", *field) for field in fields)
    return (head + directory).ljust(start, b"\0") + struct.pack("<I", 16) * strips
