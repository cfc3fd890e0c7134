"""Digests of uploads, by which preprocess knows those that it has prepared before.

Only this service computes them, from bytes that the caller has sent with this very request: a caller can't name one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from serve_app.contracts import ChatRequest, ImagePart, Message, Part
from serve_app.request_size import upload_bytes

_BYTES_IN_LOOP: Final = 1_000_000  # take 0.5 ms; more are hashed in a thread


async def with_digests(request: ChatRequest) -> ChatRequest:
    """The request with the digest of each upload that it has itself."""
    if upload_bytes(request) > _BYTES_IN_LOOP:
        return await asyncio.to_thread(change_parts, request, _with_digest)
    return change_parts(request, _with_digest)


def is_left_out(part: ImagePart) -> bool:
    """Whether only the digest of the upload is here."""
    return bool(part.digest) and not part.source


def change_parts(request: ChatRequest, change: Callable[[ImagePart], ImagePart]) -> ChatRequest:
    """The request with its pictures and files changed; what has none stays the same object."""

    def changed(part: Part) -> Part:
        return change(part) if isinstance(part, ImagePart) else part

    def with_changed_parts(message: Message) -> Message:
        if not any(isinstance(part, ImagePart) for part in message.parts):
            return message
        return replace(message, parts=tuple(map(changed, message.parts)))

    if not request.uploads:
        return request
    return replace(request, messages=tuple(map(with_changed_parts, request.messages)))


def _with_digest(part: ImagePart) -> ImagePart:
    source = part.source
    if not source or (isinstance(source, str) and not source.startswith("data:")):  # nothing, or an address
        return part
    if isinstance(source, bytes):
        digest = hashlib.sha256(b"file\0")
        digest.update(source)
    else:
        digest = hashlib.sha256(b"text\0")
        digest.update(source.encode("utf-8", "surrogatepass"))
    return replace(part, digest=digest.digest())
