"""One line of the audit log: its hash, its place in the chain, and its personal part, which is deletable.

A line is a JSON object. `hash` is the SHA-256 of the line without `hash` and `personal`, with sorted keys; `prev` is
the hash of the line before. The hash covers the digest of the personal part and not the part itself, so the chain stays
valid when a person's data is deleted. A random salt in the part keeps short texts from being guessed from its digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import orjson

START: Final = "0" * 64  # `prev` of the first line of a writer that has no earlier file
PERSONAL: Final = b',"personal":'  # the last key; JSON escapes quotes, so no value contains this
DELETED: Final = {"deleted": True}


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a file: its number, from 0, and its hash."""

    seq: int
    hash: str


class BrokenLine(Exception):
    """A line that is no line of an audit log, or was changed."""


def encode_line(seq: int, prev: str, fields: dict[str, Any], personal: dict[str, Any] | None) -> tuple[bytes, Head]:
    """The line with its line feed, and its head; `personal` has the salt."""
    line: dict[str, Any] = {"seq": seq, "prev": prev, **fields}
    if personal is not None:
        line["personal_digest"] = _digest(personal)
    head = Head(seq, _digest(line))
    text = orjson.dumps(line | {"hash": head.hash})
    if personal is not None:
        text = text[:-1] + PERSONAL + orjson.dumps(personal) + b"}"
    return text + b"\n", head


def decode_line(data: bytes) -> tuple[dict[str, Any], Head]:
    """A line whose hash and personal part fit; raises BrokenLine with a sentence."""
    try:
        line = orjson.loads(data)
        bare = {key: value for key, value in line.items() if key not in ("hash", "personal")}
        head = Head(line["seq"], line["hash"])
        text = data.removesuffix(b"\n")
        is_as_written = text == _as_written(line, len(text))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BrokenLine("It is not a line of an audit log.") from error
    if head.hash != _digest(bare):
        raise BrokenLine("Its hash does not fit: the line was changed.")
    if not is_as_written:
        raise BrokenLine("Its bytes are not those that were written, although they say the same.")
    if "personal_digest" in line:
        personal = line.get("personal")
        if personal != DELETED and line["personal_digest"] != _digest(personal):
            raise BrokenLine("The digest of its personal part does not fit: the part was changed.")
    elif "personal" in line:
        raise BrokenLine("It has a personal part without a digest: the part was added.")
    return line, head


def _as_written(line: dict[str, Any], size: int) -> bytes:
    """The bytes of a line as they were written, or as they are after its personal part was deleted.

    JSON has several ways to write one value, such as `1.0` and `1e0`, and the hash is that of the values.
    """
    text = orjson.dumps(line)
    return text[:-1].ljust(size - 1) + b"}" if line.get("personal") == DELETED else text


def without_personal(data: bytes) -> bytes:
    """The line with its personal part deleted, at the same length, so that it can be replaced in its file."""
    begin = data.index(PERSONAL) + len(PERSONAL)
    end = len(data.rstrip(b"\n")) - 1
    deleted = orjson.dumps(DELETED)
    return data[:begin] + deleted.ljust(end - begin) + data[end:]


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
