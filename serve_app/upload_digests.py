"""Digests of uploads, by which the ingress knows those that were prepared before.

Only this service computes them, from bytes that the caller has sent with this very request: a caller can't name one.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Final

from serve_app.contracts import ChatRequest, ImagePart, Message, Part
from serve_app.request_size import upload_bytes

_BYTES_IN_LOOP: Final = 1_000_000  # take 0.5 ms; more are hashed in a thread


async def with_digests(request: ChatRequest) -> ChatRequest:
    """The request with the digest of each upload that it has itself."""
    if upload_bytes(request) > _BYTES_IN_LOOP:
        return await asyncio.to_thread(_with_digests, request)
    return _with_digests(request)


def _with_digests(request: ChatRequest) -> ChatRequest:
    def with_digest(part: Part) -> Part:
        return _with_digest(part) if isinstance(part, ImagePart) else part

    def with_digests_of(message: Message) -> Message:
        if not any(isinstance(part, ImagePart) for part in message.parts):
            return message
        return replace(message, parts=tuple(map(with_digest, message.parts)))

    if not request.uploads:
        return request
    return replace(request, messages=tuple(map(with_digests_of, request.messages)))


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
