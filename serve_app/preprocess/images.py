"""File bytes -> upright RGB pixels: sniffed, measured before decoding, decoded, resized.

The bytes come from strangers. What they are is read from their first bytes, never from a declared type;
how large they get is read from the header, before a pixel is decoded. Whatever Pillow makes of hostile
bytes, the caller sees one `ImageRejected` that names the picture and the limit.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from serve_app.errors import ImageRejected, ServiceError
from serve_app.preprocess.resample import bicubic

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP or TIFF"

# The plugins are called directly, not through Image.open: its bomb guard is a process-wide number that
# warns on stderr and knows nothing of our limit. Ours is checked right after the header instead.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_STRIP_ROWS = 256  # rows flattened at once: a whole RGBA copy of a large picture costs 200 MB


@dataclass(frozen=True, slots=True)
class Name:
    """How errors speak of a picture: its number in the request, from 1, and its field."""

    number: int
    param: str

    def rejected(self, reason: str) -> ImageRejected:
        return ImageRejected(f"picture {self.number} {reason}", self.param)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before it is decoded; the size is that of the upright picture."""

    format: str
    width: int
    height: int
    orientation: int  # EXIF, 1 to 8
    animated: bool  # the first frame is used


def sniff(data: bytes, name: Name) -> str:
    """The format by the file's first bytes; raises ImageRejected for what is not accepted."""
    if not data:
        raise name.rejected("is empty (0 bytes)")
    for magic, file_format in _MAGIC:
        if data.startswith(magic):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    raise name.rejected(f"is {_guess(data)}; send {ACCEPTED}")


def read_header(data: bytes, name: Name, max_bytes: int, max_pixels: int) -> Header:
    """Measure a picture without decoding it.

    Raises ImageRejected if it is not a picture, larger than `max_bytes`, or would be more than
    `max_pixels` once decoded.
    """
    if len(data) > max_bytes:
        raise name.rejected(f"is {_mebibytes(len(data))} MiB; the limit is {_mebibytes(max_bytes)}")
    file_format = sniff(data, name)
    with _reading(name, file_format, max_pixels):
        image = _PLUGINS[file_format](io.BytesIO(data))
        width, height = image.size
        if width * height > max_pixels:
            raise name.rejected(
                f"is {_megapixels(width * height)} megapixels ({width} x {height});"
                f" the limit is {_megapixels(max_pixels)}"
            )
        if width < 1 or height < 1:
            raise name.rejected(f"has no pixels ({width} x {height})")
        orientation = _orientation(image, file_format)
        if orientation >= 5:
            width, height = height, width
        return Header(file_format, width, height, orientation, bool(getattr(image, "is_animated", False)))


def decode(data: bytes, header: Header, name: Name, max_pixels: int) -> Image.Image:
    """Decode the first frame, upright: mode RGB with transparency on white, or L if it has no colour.

    Raises ImageRejected if the file is damaged, cut off, or of a pixel type that has no 8-bit meaning.
    """
    with _reading(name, header.format, max_pixels):
        image: Image.Image = _PLUGINS[header.format](io.BytesIO(data))
        image.load()
        image = _eight_bit(image, name)
        if header.orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[header.orientation])
        if image.size != (header.width, header.height):
            raise name.rejected(f"changes its size while it is decoded: a damaged {header.format} file")
        return image


def resize(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """Bicubic, as the family's Hugging Face processor: L or RGB -> (height, width, 3), uint8."""
    pixels = bicubic(image, width, height)
    if pixels.ndim == 2:  # grey: the three channels are equal before and after
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def content_digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 over size and pixels (height, width, 3), in hexadecimal: the name of the content."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


def _orientation(image: ImageFile.ImageFile, file_format: str) -> int:
    if file_format == "TIFF":  # Pillow turns TIFF by itself, and says the upright size
        return 1
    if file_format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the picture to look behind the pixels
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture with broken camera notes is still a picture
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _eight_bit(image: Image.Image, name: Name) -> Image.Image:
    transparent = "A" in image.getbands() or image.info.get("transparency") is not None
    if transparent and not image.mode.startswith("I"):  # one transparent grey of 65,536 is ignored
        return _on_white(image)
    match image.mode:
        case "RGB" | "L":
            return image
        case "1":
            return image.convert("L")
        case mode if mode.startswith("I;16"):
            wide = np.asarray(image).astype(np.uint32)  # (height, width)
            return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
        case "I" | "F":
            raise name.rejected("has 32-bit pixels; send 8 or 16 bits per channel")
        case _:
            return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Transparency flattened on white with Pillow's own rounding, a strip at a time."""
    width, height = image.size
    flat = Image.new("RGB", image.size)
    for top in range(0, height, _STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + _STRIP_ROWS, height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return flat


@contextmanager
def _reading(name: Name, file_format: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except Image.DecompressionBombError as error:  # only far above our own limit
        raise name.rejected(f"has more pixels than the limit of {_megapixels(max_pixels)} megapixels") from error
    except Exception as error:  # Pillow's parsers raise anything at all on hostile bytes
        raise name.rejected(f"is a damaged or incomplete {file_format} file") from error


def _guess(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if head.startswith(b"%pdf"):
        return "a PDF"
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "not a picture that is understood here"


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.3g}" if pixels < 100_000_000 else f"{pixels / 1e6:.0f}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.3g}" if size < 100 * 2**20 else f"{size / 2**20:.0f}"
