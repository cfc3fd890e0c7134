"""What this process has sent lately, uploads and pictures: it decides how a prompt travels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import replace
from typing import Final

from serve_app.contracts import ChatRequest, ImagePart, Prompt, UnsentPixels
from serve_app.request_size import has_addresses, upload_bytes

_MOST: Final = 8192  # uploads, and pictures
# Encoded bytes of uploads up to which calling preprocess by value is faster than through the object store: where pixels
# come back, and where only the uploads are large.
SMALL_BYTES: Final = 100_000
SMALL_BYTES_KNOWN: Final = 2_000_000
LARGE_PIXELS: Final = 1_000_000  # bytes above which the object store and a second call are faster than one message


class SeenPictures:
    """Bounded memories of a process; a wrong guess costs time only, since the engine asks for pixels that it needs."""

    def __init__(self, most: int = _MOST) -> None:
        self._uploads = _Recent(most)
        self._sent = _Recent(most)

    def by_reference(self, request: ChatRequest, *, again: bool = False) -> bool:
        """Whether uploads, or the pixels that preprocess will probably return, are large; `again`: with all pixels."""
        if has_addresses(request):
            return True
        known = not again and self._uploads.have_all(_uploads_of(request))
        return upload_bytes(request) > (SMALL_BYTES_KNOWN if known else SMALL_BYTES)

    def add_uploads(self, request: ChatRequest) -> None:
        """Preprocess has prepared this request."""
        self._uploads.add_all(_uploads_of(request))

    def without_sent_pixels(self, prompt: Prompt) -> Prompt:
        """The prompt without pixels that its tenant has sent to the engine before."""
        if not any(picture.is_sent and (prompt.tenant, picture.digest) in self._sent for picture in prompt.pictures):
            return prompt
        pictures = tuple(
            replace(picture, pixels=UnsentPixels(picture.pixels.shape))
            if (prompt.tenant, picture.digest) in self._sent
            else picture
            for picture in prompt.pictures
        )
        return replace(prompt, pictures=pictures)

    def add_sent(self, prompt: Prompt) -> None:
        """The engine has accepted this prompt."""
        self._sent.add_all((prompt.tenant, picture.digest) for picture in prompt.pictures)


def pixel_bytes(prompt: Prompt) -> int:
    """Bytes of the pixels that the prompt has."""
    return sum(picture.sent_pixels().nbytes for picture in prompt.pictures if picture.is_sent)


def without_pixels(prompt: Prompt) -> Prompt:
    """The prompt with none of its pixels."""
    pictures = (replace(picture, pixels=UnsentPixels(picture.pixels.shape)) for picture in prompt.pictures)
    return replace(prompt, pictures=tuple(pictures))


class _Recent:
    """The most recent of what was added."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, value: Hashable) -> bool:
        return value in self._values

    def have_all(self, values: Iterable[Hashable]) -> bool:
        return all(value in self._values for value in values)

    def add_all(self, values: Iterable[Hashable]) -> None:
        for value in values:
            self._values[value] = None
            self._values.move_to_end(value)
        while len(self._values) > self._most:
            self._values.popitem(last=False)


def _uploads_of(request: ChatRequest) -> list[tuple[str, bytes]]:
    """Tenant and digest of each upload."""
    parts = (part for message in request.messages for part in message.parts)
    return [(request.caller.tenant, part.digest) for part in parts if isinstance(part, ImagePart)]
