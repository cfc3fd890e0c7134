"""Static files of the page, read once: ETags, gzip, and an address that changes with their content."""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).with_name("static")
IMMUTABLE: Final = "public, max-age=31536000, immutable"
REVALIDATED: Final = "no-cache"  # kept, and checked by its ETag before each use
DIGEST_LENGTH: Final = 16
_COMPRESSED: Final = ("text/", "application/json", "image/svg+xml")
_TYPES: Final = {".js": "text/javascript", ".txt": "text/plain"}  # not left to the machine's table of types
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file in memory; `gzipped` is None where compression gains nothing."""

    content: bytes
    gzipped: bytes | None
    media_type: str
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> StaticFile:
        gzipped = gzip.compress(content, 9, mtime=0) if media_type.startswith(_COMPRESSED) else None
        # Weak, since it is the same for both encodings.
        return cls(content, gzipped, media_type, f'W/"{hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]}"')

    def response(self, request: Request, cache_control: str, headers: Mapping[str, str]) -> Response:
        """The file, or 304 where the client has it already."""
        headers = {**_HEADERS, "ETag": self.etag, "Cache-Control": cache_control, **headers}
        known = (each.strip() for each in request.headers.get("if-none-match", "").split(","))
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        if self.gzipped is not None and accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(self.gzipped, headers=headers, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the header names gzip with a weight above 0 (RFC 9110, section 12.5.3)."""
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


@dataclass(frozen=True, slots=True)
class StaticFiles:
    """The files by their names relative to the folder; `digest` changes whenever one of them does."""

    files: Mapping[str, StaticFile]
    digest: str


@functools.cache
def read_static_files(folder: Path = FOLDER) -> StaticFiles:
    found = {
        str(path.relative_to(folder)): StaticFile.of(path.read_bytes(), _media_type(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    together = "\n".join(f"{name} {file.etag}" for name, file in found.items())
    return StaticFiles(found, hashlib.sha256(together.encode()).hexdigest()[:DIGEST_LENGTH])


def _media_type(path: Path) -> str:
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
