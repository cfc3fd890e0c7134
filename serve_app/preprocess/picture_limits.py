"""Limits of pictures: how many in a request, their bytes and pixels; errors that name the picture.

The limit of tokens depends on the model family (`FamilyProcessor.target_size`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.contracts import ImagePart
from serve_app.errors import ImageRejected, InvalidRequest
from serve_app.settings import PreprocessSettings

TIFF_STRIPS: Final = 65_536  # or tiles: Pillow makes a list of them in Python, 1 ms for each thousand
PURE_PYTHON_PIXELS: Final = 4_000_000  # of formats that Pillow decodes in Python: 0.6 s


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Maximum number of bytes, pixels and scans of one picture."""

    max_bytes: int
    max_pixels: int
    max_scans: int

    @classmethod
    def of_settings(cls, settings: PreprocessSettings) -> "PictureLimits":
        return cls(settings.max_image_bytes, settings.max_image_pixels, settings.max_jpeg_scans)


@dataclass(frozen=True, slots=True)
class ImageLabel:
    """How errors name a picture or file: its number in the request, from 1, its field, and the page of a document."""

    number: int
    param: str
    page: int | None = None
    noun: str = "Picture"

    def rejected(self, reason: str) -> ImageRejected:
        """The error "Picture 2 {reason}." or "Page 3 of file 2 {reason}."."""
        name = f"{self.noun} {self.number}" if self.page is None else f"Page {self.page} of file {self.number}"
        return ImageRejected(f"{name} {reason}.", self.param)


def label_of(part: ImagePart, index: int) -> ImageLabel:
    """The label of a request's picture, `index` from 0."""
    return ImageLabel(index + 1, part.param, noun=part.noun)


def check_number(pictures: Sequence[ImagePart], model_limit: int | None, request_limit: int) -> None:
    """Raises InvalidRequest for more pictures than the model takes in a conversation or the service in a request."""
    if model_limit is not None and len(pictures) > model_limit:
        raise InvalidRequest(
            f"The conversation has {len(pictures)} pictures; the served model accepts at most"
            f" {model_limit} in a conversation. Remove the others.",
            param=pictures[model_limit].param,
        )
    if len(pictures) > request_limit:
        raise InvalidRequest(
            f"The request has {len(pictures)} pictures; the limit is {request_limit}. Send fewer pictures.",
            param=pictures[request_limit].param,
        )


def check_bytes(size: int, limit: int, label: ImageLabel) -> None:
    """Raises ImageRejected for a file of more than `limit` bytes."""
    if size > limit:
        raise label.rejected(f"is {_mebibytes(size)} MiB; the limit is {_mebibytes(limit)} MiB. Send a smaller file")


def check_pixels(width: int, height: int, limit: int, label: ImageLabel) -> None:
    """Raises ImageRejected for a picture without pixels or with more than `limit`."""
    if width < 1 or height < 1:
        raise label.rejected(f"has no pixels ({width} x {height})")
    if width * height > limit:
        raise label.rejected(
            f"is {megapixels(width * height)} megapixels ({width} x {height}); the limit is {megapixels(limit)}."
            " Send a smaller picture"
        )


def check_scans(scans: int, limit: int, label: ImageLabel) -> None:
    """Raises ImageRejected for a progressive JPEG of more than `limit` scans; each is a pass over all pixels."""
    if scans > limit:
        raise label.rejected(
            f"is a progressive JPEG of {scans} scans; the limit is {limit}. Save it as a baseline JPEG"
        )


def check_strips(strips: int, label: ImageLabel) -> None:
    """Raises ImageRejected for a TIFF of more than `TIFF_STRIPS` strips or tiles."""
    if strips > TIFF_STRIPS:
        raise label.rejected(f"is a TIFF of {strips} strips or tiles; the limit is {TIFF_STRIPS}. Save it as PNG")


def check_pure_python_pixels(width: int, height: int, file_format: str, label: ImageLabel) -> None:
    """Raises ImageRejected for a large picture in a variant of a format that is decoded slowly."""
    if width * height > PURE_PYTHON_PIXELS:
        raise label.rejected(
            f"is a {file_format} file of {megapixels(width * height)} megapixels in a compression that is decoded"
            f" slowly; the limit for it is {megapixels(PURE_PYTHON_PIXELS)}. Save it as PNG or JPEG"
        )


def check_request_pixels(pixels: int, limit: int, label: ImageLabel) -> None:
    """Raises ImageRejected for the picture with which a request has more than `limit` pixels."""
    if pixels > limit:
        raise label.rejected(
            f"brings the request's pictures to {megapixels(pixels)} megapixels; the limit of a request is"
            f" {megapixels(limit)}. Send fewer or smaller pictures"
        )


def megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.3g}" if pixels < 100_000_000 else f"{pixels / 1e6:.0f}"


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.3g}" if size < 100 * 2**20 else f"{size / 2**20:.0f}"
