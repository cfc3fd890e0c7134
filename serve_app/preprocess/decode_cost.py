"""Predicts the CPU time of a picture from its header, before a pixel is decoded.

The prediction orders the queue of the decoder pool and sets the budget after which the kernel ends a decoder.
Nanoseconds of CPU per pixel were measured with Pillow 13 on one core (docs/decisions/0013-decoding-processes.md).
"""

from typing import Final, Protocol

SMALL_S: Final = 0.25  # predicted CPU seconds; the decoder for small pictures takes no picture above this
AT_ONCE_S: Final = 0.05  # predicted: a picture up to this is decoded as soon as its header is read

_NS_PER_PIXEL: Final = {
    "JPEG": 4.0,  # the first scan of a progressive file costs as much
    "PNG": 14.0,
    "WebP": 21.0,
    "GIF": 8.0,
    "BMP": 2.0,
    "TIFF": 12.0,
    "AVIF": 30.0,
    "HEIC": 50.0,
    "PDF": 60.0,
}
_NS_PER_SCAN_PIXEL: Final = 1.0  # each further scan of a progressive JPEG
_NS_PURE_PYTHON: Final = 150.0  # decoders that Pillow has in Python only: BMP with run lengths
_PAGE_S: Final = 0.1  # of a PDF, besides its pixels: its content is not known
_NS_RESIZE: Final = 10.0
_NS_PER_BYTE: Final = 5.0  # of a header: a file may be all header
_BUDGET_FACTOR: Final = 10.0  # above every prediction error and slower machines
_LEAST_BUDGET_S: Final = 0.5


class Measured(Protocol):
    """What is known of a picture from its header."""

    @property
    def format(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def scans(self) -> int: ...
    @property
    def pure_python(self) -> bool: ...


def header_cost_s(size: int) -> float:
    """Predicted CPU seconds to read the header of a file of `size` bytes."""
    return size * _NS_PER_BYTE / 1e9


def decode_cost_s(header: Measured, seen_pixels: int) -> float:
    """Predicted CPU seconds to decode a picture and to resize it to `seen_pixels`."""
    per_pixel = _NS_PURE_PYTHON if header.pure_python else _NS_PER_PIXEL[header.format]
    per_pixel += _NS_PER_SCAN_PIXEL * (header.scans - 1) + _NS_RESIZE
    fixed_s = _PAGE_S if header.format == "PDF" else 0.0
    return fixed_s + (header.width * header.height * per_pixel + seen_pixels * _NS_RESIZE) / 1e9


def cpu_budget_s(cost_s: float) -> float:
    """CPU seconds after which a decoder is ended that works on a job of this predicted cost."""
    return max(_LEAST_BUDGET_S, _BUDGET_FACTOR * cost_s)
