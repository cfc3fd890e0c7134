"""A message of a chat platform, in the words that all platforms share, and its JSON for the kept state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import orjson

Kind: TypeAlias = Literal["message", "enter_chat"]


@dataclass(frozen=True, slots=True)
class FileRef:
    """Where a platform keeps a picture or file; only its adapter knows what `place` means."""

    place: str  # an address, media id, download code or `message id/image key`
    key: str = ""  # of the encryption, where the file has its own
    is_document: bool = False  # sent as a file, not as a picture


@dataclass(frozen=True, slots=True)
class Quote:
    """An earlier message that this one quotes: data for the model, not an instruction."""

    text: str = ""
    files: tuple[FileRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message of one user."""

    platform: str  # the adapter's name, such as wecom_bot
    bot: str
    user: str
    id: str  # of the message; repeated deliveries have the same
    chat: str = ""  # of a group; empty: a chat of the user with the bot
    text: str = ""
    files: tuple[FileRef, ...] = ()
    quote: Quote | None = None
    unsupported: str = ""  # the platform's type of a message that can't be read
    reply_to: str = ""  # what the adapter needs for its reply: an address, request id, or webhook of the session
    kind: Kind = "message"

    @property
    def all_files(self) -> tuple[FileRef, ...]:
        """The quoted files, then its own."""
        return (*(self.quote.files if self.quote else ()), *self.files)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Inbound:
        quote = fields.pop("quote")
        files = _files(fields.pop("files"))
        return cls(files=files, quote=Quote(quote["text"], _files(quote["files"])) if quote else None, **fields)


def _files(values: list[dict[str, Any]]) -> tuple[FileRef, ...]:
    return tuple(FileRef(**value) for value in values)


def join_key(*names: str) -> str:
    """One key of several names, whatever characters they have."""
    return orjson.dumps(names).decode()
