"""A kept answer: its events as bytes, with a signature over them and their key, and back.

A signature that does not fit means a damaged or forged answer, or the answer of another key; it is ignored.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from typing import Any, Final

from serve_app.contracts import (
    Box,
    Boxed,
    Delta,
    Event,
    Finished,
    PictureSeen,
    PictureSource,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

BLOCKED: Final = b"blocked"  # kept in place of an answer that a caller called wrong

_SIGNATURE_BYTES: Final = 32
_CLASSES: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (Started, Delta, ToolCallDelta, Finished, Usage, PictureSeen, PictureSource, TokenLogprob, Boxed, Box)
}


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The events of a complete answer."""

    events: tuple[Event, ...]

    def replayed(self, stages_ms: dict[str, float]) -> list[Event]:
        """The events for a caller whose answer took `stages_ms` and no work of the model."""
        return [as_hit(event, stages_ms) for event in self.events]


def as_hit(event: Event, stages_ms: dict[str, float]) -> Event:
    """An event of an answer that was generated for another request."""
    match event:
        case Started():
            return replace(event, stages_ms=stages_ms, cache="hit")
        case Finished(usage=usage):
            cached = replace(usage, cached_tokens=usage.prompt_tokens)
            return replace(event, stages_ms=stages_ms, usage=cached, vram_bytes=0, device_ms=0.0)
    return event


class Codec:
    """Writes and reads kept answers; with a key they are signed (HMAC-SHA256), without one they have a checksum."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def encode(self, key: str, events: list[Event]) -> bytes:
        return self.sign(key, json.dumps(_plain(events), separators=(",", ":")).encode())

    def blocked(self, key: str) -> bytes:
        return self.sign(key, BLOCKED)

    def sign(self, name: str, payload: bytes) -> bytes:
        """The payload with a signature that is valid under this name only."""
        return self._signature(name, payload) + payload

    def verified(self, name: str, data: bytes) -> bytes:
        """The payload; raises ValueError if the signature does not fit."""
        signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(name, payload)):
            raise ValueError("The signature of a kept answer does not fit.")
        return payload

    def decode(self, key: str, data: bytes) -> StoredAnswer | None:
        """The answer, None if its key is blocked; raises ValueError if the signature does not fit."""
        payload = self.verified(key, data)
        if payload == BLOCKED:
            return None
        try:
            events = _object(json.loads(payload))
        except RecursionError as error:
            raise ValueError("The payload of a kept answer is nested too deeply.") from error
        if not (_is_list_of_events(events) and isinstance(events[0], Started) and isinstance(events[-1], Finished)):
            raise ValueError("The payload is not an answer.")
        return StoredAnswer(events)

    def _signature(self, key: str, payload: bytes) -> bytes:
        return hmac.digest(self._key, key.encode() + b"\0" + payload, hashlib.sha256)


def _is_list_of_events(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 1 and all(isinstance(each, Event) for each in value)


@functools.cache
def _kept_fields(kind: type[Any]) -> tuple[str, ...]:
    """Without times, which are those of another request; the caller of a hit gets its own."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name != "stages_ms")


def _plain(value: Any) -> Any:
    """Events as JSON: an object has its class and the values of its fields."""
    if dataclasses.is_dataclass(value):
        names = _kept_fields(type(value))  # type: ignore[arg-type]  # types are hashable
        return {"class": type(value).__name__, **{name: _plain(getattr(value, name)) for name in names}}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return [_plain(each) for each in value] if isinstance(value, (tuple, list)) else value


def _object(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_object(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "base64" in value:
        return base64.b64decode(value["base64"])
    return _CLASSES[value.pop("class")](**{name: _object(each) for name, each in value.items()})
