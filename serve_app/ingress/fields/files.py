"""Fields of files: a document or picture in a message, and which pages of a document are shown."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pydantic import Field

from serve_app.contracts import Detail, ImagePart, Pages
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes, StrictModel
from serve_app.ingress.validation import truncate

MAX_RANGES: Final = 100
FILE_DATA: Final = "A PDF or a picture as `data:application/pdf;base64,…` or as the base64 alone."
FILE_ID: Final = "Not supported; this service keeps no files."
FILENAME: Final = f"{IGNORED} The file says what it is."
PAGES: Final = "Pages of a PDF, such as `1-3,7` or `5-`; each becomes a picture. Default: all. (Ours)"

_RANGE: Final = re.compile(r"\s*([0-9]{1,6})\s*(?:(-)\s*([0-9]{1,6})?\s*)?")


class FileObject(StrictModel):
    """A file that is in the request."""

    file_data: str | None = Field(None, description=FILE_DATA)
    file_id: Any = Field(None, description=FILE_ID)
    filename: Any = Field(None, description=FILENAME)
    format: Any = Field(None, description=f"{FILENAME} (LiteLLM's)")
    pages: str | None = Field(None, description=PAGES)


class FilePartBody(ClientNotes):
    """A PDF, each page of which the model sees as a picture, or a picture. (OpenAI's)"""

    type: Literal["file"] = Field(description="The kind of part.")
    file: FileObject = Field(description="The file.")


class FileUrl(StrictModel):
    """The address of a file, or the file itself."""

    url: str = Field(description="An http(s) address, or as `file_data`.")
    pages: str | None = Field(None, description=PAGES)


class FileUrlPartBody(ClientNotes):
    """A PDF or a picture by its address. (z.ai's)"""

    type: Literal["file_url"] = Field(description="The kind of part.")
    file_url: FileUrl = Field(description="Where the file is.")


def file_part(
    param: str,
    *,
    file_data: str | None = None,
    file_url: str | None = None,
    file_id: Any = None,
    pages: str | None = None,
    detail: Detail | None = None,
) -> ImagePart:
    """The contract's part; `param` is the object with the fields. Raises InvalidRequest that names one of them."""
    if file_id is not None:
        raise InvalidRequest(
            f"'{param}.file_id' is not supported: this service keeps no files. Send the file as 'file_data'.",
            f"{param}.file_id",
        )
    if file_data is not None and file_url is not None:
        raise InvalidRequest(f"'{param}' has both 'file_data' and 'file_url'; send one of them.", f"{param}.file_url")
    source, field = (file_url, "file_url") if file_data is None else (file_data, "file_data")
    if source is None:
        raise InvalidRequest(f"'{param}.file_data' is required: the file as base64.", f"{param}.file_data")
    return ImagePart(source, f"{param}.{field}", detail or "auto", parse_pages(pages, f"{param}.pages"), "File")


def parse_pages(text: str | None, param: str) -> Pages | None:
    """The pages that a text such as "1-3,7" or "5-" names; None, which is all, for an empty text.

    Raises InvalidRequest for any other text. Whether the document has these pages is checked in preprocess.
    """
    if text is None or not text.strip():
        return None
    ranges = [_range(each) for each in text.split(",", MAX_RANGES)]
    known = tuple(each for each in ranges if each is not None)
    if len(known) < len(ranges) or len(ranges) > MAX_RANGES:
        raise InvalidRequest(
            f"'{param}' is '{truncate(text)}'; it must name pages from 1 and ranges of them, such as '1-3,7' or '5-',"
            f" {MAX_RANGES} at most.",
            param,
        )
    return Pages(known, param)


def _range(text: str) -> tuple[int, int | None] | None:
    """The first and last page of one range; None if the text is none."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    first = int(match[1])
    last = int(match[3]) if match[3] else None if match[2] else first
    return (first, last) if first >= 1 and (last is None or first <= last) else None
