"""Documents in a request: each page of a PDF becomes a picture at the place of its file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.contracts import FilePart, ImagePart, Message, Part

PDF = "PDF"  # format of a page's header
POINTS_PER_INCH = 72
_MAGIC = b"%PDF-"
_MAGIC_WITHIN = 1024  # bytes; readers accept what stands before it


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture or document as sent: which part, and of a document which pages."""

    part: ImagePart
    pages: tuple[int, int] | None = None  # first and last, from 1; None: all


def is_pdf(data: bytes) -> bool:
    return _MAGIC in data[: _MAGIC_WITHIN + len(_MAGIC)]


def files_as_pictures(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[Upload]]:
    """The messages with a picture in the place of each file, and all uploads in their order."""
    uploads: list[Upload] = []
    changed: list[Message] = []
    for message in messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, FilePart):
                uploads.append(Upload(ImagePart(part.source, part.param, part.detail), part.pages))
                parts.append(uploads[-1].part)
            else:
                if isinstance(part, ImagePart):
                    uploads.append(Upload(part))
                parts.append(part)
        changed.append(replace(message, parts=tuple(parts)))
    return tuple(changed), uploads


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
