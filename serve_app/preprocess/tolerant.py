"""Decodes files with small faults, as browsers do: side chunks of PNG, and JPEG without its end mark."""

import io
import zlib
from collections.abc import Iterator

from PIL import JpegImagePlugin

_SIGNATURE_BYTES = 8
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_SIDE_CHUNKS = {b"tRNS", b"eXIf"}  # that change what is seen; dropped if they are damaged, as libpng does
_COLOUR_TYPE = 25  # where it is in a file: in IHDR, the first chunk
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}  # of tRNS by colour type: grey, RGB, palette
_IEND = b"\0\0\0\0IEND\xaeB`\x82"
_END_OF_IMAGE = b"\xff\xd9"
_NOISE = bytes(range(17, 200, 7)) * 8  # no 0xFF, so no marker


def keep_pixel_chunks(data: bytes) -> bytes:
    """The PNG without texts, profiles and animation, which Pillow limits to 1 MB and whose checksums it demands.

    What makes up the pixels stays as it is, faults included; a missing IEND is added after complete pixels.
    """
    kept: list[memoryview | bytes] = [memoryview(data)[:_SIGNATURE_BYTES]]
    complete = False
    for kind, chunk in _chunks(data):
        if kind in _PIXEL_CHUNKS or (kind in _SIDE_CHUNKS and _is_sound(kind, chunk, data)):
            kept.append(chunk)
        complete = len(chunk) >= 12 and len(chunk) == 12 + int.from_bytes(chunk[:4])
        if kind == b"IEND":
            break
    else:
        if complete:
            kept.append(_IEND)
    return b"".join(kept)


def load_without_end_mark(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Decode a JPEG that lacks its end mark; raises OSError if pixels are missing too.

    The decoder fills missing pixels silently once it finds an end mark. Whether it did is seen by decoding twice: bytes
    before the added mark change the picture only if it was not complete.
    """
    if data.endswith(_END_OF_IMAGE):
        raise OSError("The file has its end mark.")
    data = data.removesuffix(_END_OF_IMAGE[:1])
    image, again = (JpegImagePlugin.JpegImageFile(io.BytesIO(data + rest + _END_OF_IMAGE)) for rest in (b"", _NOISE))
    image.load()
    if image.tobytes() != again.tobytes():
        raise OSError("The file ends before its last pixel.")
    return image


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, length + type + data + checksum) of each chunk; the last one may be cut off."""
    view, start = memoryview(data), _SIGNATURE_BYTES
    while start < len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4])
        yield bytes(view[start + 4 : start + 8]), view[start:end]
        start = end


def _is_sound(kind: bytes, chunk: memoryview, data: bytes) -> bool:
    """Whether the checksum of a side chunk is right, and for tRNS its length (PNG specification, 11.3.2.1)."""
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        return False
    colour_type = int.from_bytes(data[_COLOUR_TYPE : _COLOUR_TYPE + 1])  # a file may end before it
    return kind != b"tRNS" or len(chunk) - 12 in _TRANSPARENCY_BYTES.get(colour_type, ())
