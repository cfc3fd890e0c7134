"""Picture file -> upright RGB image: size read from the header first, then decoded.

The bytes are not trusted: the size is known from the header before a pixel is decoded, and every failure of
Pillow on malicious bytes becomes an `ImageRejected` that names the picture. The service runs this in the processes of
decoder_pool.py only, which can be killed.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pi_heif import HeifImageFile
from pi_heif import options as heif_options
from PIL import (
    AvifImagePlugin,
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
from serve_app.preprocess.jpeg_segments import count_scans, is_common, keep_pixel_segments
from serve_app.preprocess.picture_limits import (
    ImageLabel,
    PictureLimits,
    check_bytes,
    check_pixels,
    check_pure_python_pixels,
    check_scans,
    check_strips,
    megapixels,
)
from serve_app.preprocess.sniff import sniff
from serve_app.preprocess.tolerant import keep_pixel_chunks, load_without_end_mark

# The plugins are called directly, not through Image.open: its decompression bomb check is a process-wide
# limit that warns on stderr. Our own limit is checked right after the header instead.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": HeifImageFile,
}
AvifImagePlugin.DEFAULT_MAX_THREADS = heif_options.DECODE_THREADS = 1  # one core for each decoder process
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
_STRIPS_OR_TILES = (273, 324)  # tags of a TIFF: where they begin
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of a TIFF
_WHITE_IS_ZERO = 0
_APPLES_PNG = b"CgBI"  # the first chunk of what Xcode makes of a PNG, which browsers don't show either
_RARE_KINDS = ("unknown pixel mode", "cannot handle", "Unsupported BMP")  # how Pillow begins to name them
_STRIP_ROWS = 256  # rows flattened at once: a full RGBA copy of a large picture costs 200 MB


@dataclass(frozen=True, slots=True)
class Header:
    """Properties of a file that are known before it is decoded; the size is that of the upright picture."""

    format: str
    width: int
    height: int
    orientation: int  # EXIF, 1 to 8
    scans: int = 1  # of a JPEG: a progressive one is decoded once for each
    pure_python: bool = False  # Pillow has no C decoder for it
    page: int | None = None  # of a PDF, from 1


def read_header(data: bytes, label: ImageLabel, limits: PictureLimits) -> Header:
    """Measure a picture without decoding it.

    Raises ImageRejected if it is not a picture, or larger in bytes, pixels or scans than `limits`.
    """
    check_bytes(len(data), limits.max_bytes, label)
    file_format = sniff(data, label)
    with _pillow_errors_rejected(data, label, file_format, limits.max_pixels):
        if file_format == "TIFF":
            check_strips(_count_strips(data), label)
        elif data[12:16] == _APPLES_PNG:
            raise _of_rare_kind(label, file_format)
        image = _open(data, file_format)
        width, height = image.size
        check_pixels(width, height, limits.max_pixels, label)
        if file_format == "HEIC" and image.mode.startswith("I;16"):
            # pi-heif 1.4 writes outside its memory if the coded pixels have 8 bits after all.
            raise label.rejected("is a grey HEIC file of more than 8 bits. Convert it to JPEG or PNG")
        scans = count_scans(data) if file_format == "JPEG" else 1
        check_scans(scans, limits.max_scans, label)
        pure_python = any(tile[0] in Image.DECODERS for tile in image.tile)
        if pure_python:
            check_pure_python_pixels(width, height, file_format, label)
        orientation = _orientation(image, file_format)
        if orientation >= 5:
            width, height = height, width
        return Header(file_format, width, height, orientation, scans, pure_python)


def decode_picture(data: bytes, header: Header, label: ImageLabel, max_pixels: int) -> Image.Image:
    """Decode the first frame, upright: mode RGB with transparency on white, or L if it has no colour.

    Raises ImageRejected if the file is damaged, cut off, or has a pixel type without an 8-bit equivalent.
    """
    with _pillow_errors_rejected(data, label, header.format, max_pixels):
        image = _eight_bit(_load(data, header.format), label)
        if header.orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[header.orientation])
        if image.size != (header.width, header.height):
            raise label.rejected(
                f"is a damaged {header.format} file: its size differs between header and pixels. Save it again"
            )
        return image


def _open(data: bytes, file_format: str) -> ImageFile.ImageFile:
    if file_format == "PNG":
        data = keep_pixel_chunks(data)
    elif file_format == "JPEG":
        data = keep_pixel_segments(data)
    return _PLUGINS[file_format](io.BytesIO(data))


def _load(data: bytes, file_format: str) -> Image.Image:
    image = _open(data, file_format)
    try:
        image.load()
    except OSError:
        if file_format != "JPEG":
            raise
        return load_without_end_mark(keep_pixel_segments(data))
    return image


def _count_strips(data: bytes) -> int:
    """The most strips or tiles that the first directory of a TIFF names; 0 if it is damaged, which Pillow finds."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")  # BigTIFF: 8 bytes in place of 4
    size, entry, numbers = (8, 20, 8) if big else (4, 12, 2)

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)

    start = number(8 if big else 4, size)
    entries = range(start + numbers, min(start + numbers + entry * number(start, numbers), len(data)), entry)
    counts = [number(place + 4, size) for place in entries if number(place, 2) in _STRIPS_OR_TILES]
    return max(counts, default=0)


def _orientation(image: ImageFile.ImageFile, file_format: str) -> int:
    if file_format == "TIFF":  # Pillow rotates TIFF itself and reports the upright size
        return 1
    if file_format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the picture to look behind the pixels
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a picture with broken EXIF data is still a picture
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _eight_bit(image: Image.Image, label: ImageLabel) -> Image.Image:
    transparent = "A" in image.getbands() or image.info.get("transparency") is not None
    if transparent and not image.mode.startswith("I"):
        return image.convert("RGB") if _has_unused_alpha(image) else _on_white(image)
    match image.mode:
        case "RGB" | "L":
            return image
        case "1":
            return image.convert("L")
        case mode if mode.startswith("I;16"):
            return _grey_of_16_bits(image)
        case "I" | "F":
            raise label.rejected(
                "has 32-bit or signed pixels. Save it with 8 or 16 bits per channel and without negative values"
            )
        case _:
            return image.convert("RGB")


def _has_unused_alpha(image: Image.Image) -> bool:
    """Whether a BMP or TIFF is transparent everywhere: Windows leaves the fourth byte of a screenshot's pixels 0."""
    return image.mode == "RGBA" and image.format in ("BMP", "TIFF") and image.getchannel("A").getextrema() == (0, 0)


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    """As 8 bits; Pillow 13 leaves it to its caller that 12 bits are not 16 and that 0 may be white or transparent."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    most = (1 << tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    wide = np.asarray(image).astype(np.uint32)  # (height, width)
    grey = ((wide * 255 + most // 2) // most).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if (transparent := image.info.get("transparency")) is not None:
        grey[wide == transparent] = 255
    return Image.fromarray(grey)


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
def _pillow_errors_rejected(data: bytes, label: ImageLabel, file_format: str, max_pixels: int) -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except Image.DecompressionBombError as error:  # only far above our own limit
        raise label.rejected(f"has more pixels than the limit of {megapixels(max_pixels)} megapixels") from error
    except Exception as error:  # Pillow's parsers raise any exception type on malicious bytes
        if str(error).startswith(_RARE_KINDS) or (file_format == "JPEG" and not is_common(data)):
            raise _of_rare_kind(label, file_format) from error
        raise label.rejected(f"is a damaged or incomplete {file_format} file. Send the complete file") from error


def _of_rare_kind(label: ImageLabel, file_format: str) -> ImageRejected:
    return label.rejected(
        f"is a {file_format} file of a rare kind that this service can't read. Save it as an ordinary PNG or JPEG"
    )
