"""Documents in a request: each page of a PDF becomes a picture at the place of its file."""

from collections.abc import Sequence
from dataclasses import replace

from serve_app.contracts import ImagePart, Message

PDF = "PDF"  # format of a page's header
POINTS_PER_INCH = 72
_MAGIC = b"%PDF-"
_MAGIC_WITHIN = 1024  # bytes; readers accept what stands before it


def is_pdf(data: bytes) -> bool:
    return _MAGIC in data[: _MAGIC_WITHIN + len(_MAGIC)]


def repeat_pictures(messages: Sequence[Message], counts: Sequence[int]) -> tuple[Message, ...]:
    """The messages with `counts[n]` pictures in the place of the n-th one."""
    left = iter(counts)
    return tuple(
        replace(
            message,
            parts=tuple(
                again
                for part in message.parts
                for again in ([part] * next(left) if isinstance(part, ImagePart) else [part])
            ),
        )
        for message in messages
    )
