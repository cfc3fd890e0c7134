"""A parser of multipart forms: refuses garbled and cut-off parts, and takes files that have no file name."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, Final

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import truncate

AS_THEY_ARE: Final = frozenset({"", "7bit", "8bit", "binary"})
FILENAME_IN_UTF_8: Final = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)
NOT_LIKE_ASCII: Final = ("utf-16", "utf16", "utf-32", "utf32", "ucs-2", "ucs-4")


class FormParser(MultiPartParser):
    """Starlette's parser, which ignores the encodings of parts and reads invalid text as Latin-1.

    Files are those with a file name; here also those without one that say so, in `files` only: clients may leave it
    out (RFC 7578, section 4.2) or send `filename*` alone.
    """

    spool_max_size = 0  # never: a temporary file would only cost time

    def __init__(self, *args: Any, files: Container[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._files = files
        self._in_part = False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._in_part = True

    def on_headers_finished(self) -> None:
        part = self._current_part
        headers = dict(part.item_headers)
        content_type, options = parse_options_header(headers.get(b"content-type"))
        disposition = part.content_disposition or b""
        _, names = parse_options_header(disposition)
        name = names.get(b"name", b"").decode("utf-8", "replace")
        is_file = name in self._files and content_type and not content_type.lower().startswith(b"text/")
        if b"filename" not in names and (is_file or FILENAME_IN_UTF_8.search(disposition)):
            part.content_disposition = disposition + b'; filename="unnamed"'
        super().on_headers_finished()
        encoding = headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower()
        if encoding not in AS_THEY_ARE:
            raise InvalidRequest(
                f"'{truncate(name)}' has the Content-Transfer-Encoding {truncate(encoding)!r}; send its bytes as they"
                " are, without this header.",
                truncate(name),
            )
        charset = options.get(b"charset", b"").decode("latin-1").lower()
        if part.file is None and charset.startswith(NOT_LIKE_ASCII):
            raise self._not_utf_8()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        try:
            super().on_part_data(data, start, end)
        except MultiPartException:  # too long for a text
            if self._current_part.field_name in self._files:
                raise self._no_file() from None
            raise

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            try:
                bytes(part.data).decode("utf-8")
            except UnicodeDecodeError:
                raise (self._no_file() if part.field_name in self._files else self._not_utf_8()) from None
        super().on_part_end()
        self._in_part = False

    def check_end(self) -> None:
        """Raises InvalidRequest if the form ended inside a part, which the parser leaves out."""
        if self._in_part and self._current_part.item_headers:
            name = truncate(self._current_part.field_name)
            if not name:
                raise InvalidRequest("The form ends before the closing boundary. Send the complete form.")
            raise InvalidRequest(
                f"The form ends inside the part '{name}', before the closing boundary. Send the complete form.", name
            )

    def _not_utf_8(self) -> InvalidRequest:
        name = truncate(self._current_part.field_name)
        return InvalidRequest(f"The text of '{name}' is not UTF-8; encode the form as UTF-8.", name)

    def _no_file(self) -> InvalidRequest:
        name = truncate(self._current_part.field_name)
        return InvalidRequest(f"'{name}' must be a file upload: its part needs a filename.", name)
