"""Size of requests as they were sent: bytes of uploads, characters of texts, different prompts."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.contracts import ChatRequest, TextPart


def upload_bytes(request: ChatRequest) -> int:
    """Bytes of pictures and files, or characters of those in a `data:` URL; of those at an address, the address."""
    return sum(map(len, request.uploads))


def has_addresses(request: ChatRequest) -> bool:
    """Whether a picture or file is at an address, so that its content and size are not known yet."""
    return any(isinstance(source, str) and not source.startswith("data:") for source in request.uploads)


def one_of_each_prompt(requests: Iterable[ChatRequest]) -> list[ChatRequest]:
    """The first request of each prompt: choices of one prompt share their group."""
    first: dict[str, ChatRequest] = {}
    for request in requests:
        first.setdefault(request.group or request.id, request)
    return list(first.values())


def text_characters(request: ChatRequest) -> int:
    """Characters of all texts; of a text given as token ids, their number."""
    if request.text is not None:
        return len(request.text)
    parts = (part for message in request.messages for part in message.parts)
    return sum(len(part.text) for part in parts if isinstance(part, TextPart))
