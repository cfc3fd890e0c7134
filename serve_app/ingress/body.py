"""Parses request bodies: JSON and multipart forms; `body_reader.py` has received them within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from http import HTTPStatus
from typing import Any, Final

from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from serve_app.errors import InvalidRequest
from serve_app.ingress.form_parser import FormParser
from serve_app.ingress.json_limits import check_bytes, check_values
from serve_app.ingress.surrogates import replace_lone_surrogates
from serve_app.ingress.validation import truncate

MAX_FORM_FILES: Final = 1000  # far above preprocess.max_images, whose error names that limit
MAX_FORM_FIELDS: Final = 100
IN_PLACE_BYTES: Final = 4 * 2**20  # of JSON that is parsed on the event loop, if it has few separators
IN_PLACE_SEPARATORS: Final = 10_000  # take 1 ms
UTF_8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # Windows tools write it before UTF-8
COMPRESSIONS: Final = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
UTF_16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")  # PowerShell's `>` writes one of them and UTF-16


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    `from_json` is pydantic's own parser: 14 MB with one long base64 string take it 1.5 ms, orjson 12. Its depth is
    limited to 200. Other bodies than a picture with a text are parsed in a thread: two million small items take a
    second.
    """
    _check_encoding(request)
    body = await request.body()
    is_large = len(body) > IN_PLACE_BYTES
    if body.startswith(UTF_16_MARKS):
        body = await asyncio.to_thread(_utf_16_as_utf_8, body) if is_large else _utf_16_as_utf_8(body)
    body = body.removeprefix(BYTE_ORDER_MARK)
    separators = await asyncio.to_thread(check_bytes, body) if is_large else check_bytes(body)
    in_place = not is_large and separators <= IN_PLACE_SEPARATORS
    try:
        parsed = _parse(body) if in_place else await asyncio.to_thread(_parse, body)
    except ValueError as error:
        raise _not_json(body, error) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return parsed


def _utf_16_as_utf_8(body: bytes) -> bytes:
    try:
        return body.decode("utf-16").encode()
    except UnicodeDecodeError:
        raise InvalidRequest("The body begins like UTF-16 but is not; encode the JSON as UTF-8.") from None


def _parse(body: bytes) -> Any:
    parsed = from_json(replace_lone_surrogates(body), allow_inf_nan=False, cache_strings="keys")
    if isinstance(parsed, dict):
        check_values(parsed)
    return parsed


async def read_form(request: Request, files: Container[str]) -> FormData:
    """The body as a multipart form; its files stay in memory. Text is UTF-8 (RFC 7578, section 5.1.2).

    `files` are the fields that hold files.
    """
    _check_encoding(request)
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the picture and the question as multipart/form-data."
        )
    # Never given to Python as a codec: some of its codecs take time in proportion to the square of the text.
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in UTF_8:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The form's charset is {truncate(charset)!r}; send it as UTF-8."
        )
    parser = FormParser(
        request.headers, request.stream(), files=files, max_files=MAX_FORM_FILES, max_fields=MAX_FORM_FIELDS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form can't be read: {error.message.rstrip('.')}.") from None
    parser.check_end()
    return form


def _check_encoding(request: Request) -> None:
    """Refuses compressed bodies: a small one could expand to gigabytes, and pictures are compressed already."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if any(part.strip() in COMPRESSIONS for part in encoding.split(",")):  # clients also write `utf-8` here
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body has the Content-Encoding {truncate(encoding)!r}; send it without compression.",
            headers={"Accept-Encoding": "identity"},
        )


def _not_json(body: bytes, error: ValueError) -> InvalidRequest:
    """The reason in words: a body of another encoding fails in the parser with words about JSON."""
    if not body:
        return InvalidRequest("The body is empty. Send a JSON object.")
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return InvalidRequest(
            f"The body is not UTF-8: byte {wrong.start} is 0x{body[wrong.start]:02x}. Encode the JSON as UTF-8."
        )
    if b"\0" in body[:4]:  # UTF-16 and UTF-32 of ASCII, without a byte order mark
        place = body.index(b"\0")
        return InvalidRequest(f"The body is not UTF-8: byte {place} is 0x00. Encode the JSON as UTF-8.")
    return InvalidRequest(f"The body is not JSON: {error}.")
