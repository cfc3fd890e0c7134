"""The format of a picture file by its first bytes, never by a declared type."""

from serve_app.preprocess.picture_limits import ImageLabel

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP or TIFF"

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


def sniff(data: bytes, label: ImageLabel) -> str:
    """The format's name; raises ImageRejected for a format that is not accepted."""
    if not data:
        raise label.rejected("is empty (0 bytes)")
    if file_format := known_format(data):
        return file_format
    raise label.rejected(f"is {_describe(data)}. Send {ACCEPTED}")


def known_format(data: bytes) -> str | None:
    """The format's name, if the file begins like one that is accepted."""
    for magic, file_format in _MAGIC:
        if data.startswith(magic):
            return file_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _describe(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if head.startswith(b"%pdf"):
        return "a PDF"
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "not a picture of a known format"
