"""The format of a picture file by its first bytes, never by a declared type."""

import codecs

from serve_app.preprocess.picture_limits import ImageLabel

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or PDF"

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
# A data: URL, and PNG, JPEG, WebP, GIF and PDF as base64, in lower case.
_AS_BASE64 = (b"data:image/", b"ivborw0kggo", b"/9j/", b"uklgr", b"r0lgod", b"jvberi0")


def sniff(data: bytes, label: ImageLabel) -> str:
    """The format's name; raises ImageRejected for a format that is not accepted."""
    if not data:
        raise label.rejected("is empty (0 bytes)")
    if file_format := known_format(data):
        return file_format
    what, conversion = _describe(data)
    raise label.rejected(f"is {what}. {conversion}; accepted are {ACCEPTED}")


def known_format(data: bytes) -> str | None:
    """The format's name, if the file begins like one that is accepted."""
    for magic, file_format in _MAGIC:
        if data.startswith(magic):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    brands = _brands(data)
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "HEIC"
    return None


def _brands(data: bytes) -> set[bytes]:
    """The brands in the first box of a file in the ISO base media format."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4]), 512)
    return {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}


def _is_text(data: bytes) -> bool:
    """Whether a file begins with UTF-8 without control characters."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data[:4096])
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _describe(data: bytes) -> tuple[str, str]:
    """A sentence that names the format of an unknown file and how to convert it to a picture."""
    head = data[:4096].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if data[4:12] == b"ftypcrx ":
        return "a camera's raw file", "Convert it to JPEG or PNG"
    if data[4:8] == b"ftyp" or data[:4] == b"\x1aE\xdf\xa3" or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "a video file", "Send one frame of it as JPEG or PNG"
    if data[:2] == b"\xff\x0a" or data[:4] == b"\xff\x4f\xff\x51" or data[4:8] in (b"JXL ", b"jP  "):
        return "a JPEG XL or JPEG 2000 file", "Convert it to JPEG or PNG"
    if head.startswith(b"<!doctype html") or (head.startswith(b"<") and b"<html" in head):
        return "a web page", "Send a screenshot, or the address of the picture itself"
    if head.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head:
        return "an SVG drawing", "Export it as PNG"
    if data[:2] == b"PK" or data[:4] == b"\xd0\xcf\x11\xe0":
        return "an office document or archive", "Save it as PDF"
    if head.startswith(_AS_BASE64):
        return "base64 that was encoded twice", "Encode the file once"
    if _is_text(data):
        return "a text", "Send it as a text part of the message"
    return "not a picture of a known format", "Convert it to JPEG or PNG"
