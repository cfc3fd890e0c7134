"""The key of an answer: SHA-256 over everything in a prompt on which its answer depends.

All fields of a prompt are part of the key except those listed here, so that a new field is part of it too. The digest
of a request (`request_digest`) covers what becomes of the request, and is known before its pictures are decoded.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, Final

import numpy as np

from serve_app.contracts import ChatRequest, ImagePart, Pages, Picture, Prompt, Sampling
from serve_app.request_size import has_addresses

# Fields that cannot change an answer.
PROMPT_FIELDS_NOT_IN_KEY: Final = frozenset({"id", "deadline_s", "stages_ms", "stream", "lane"})
PICTURE_FIELDS_NOT_IN_KEY: Final = frozenset({"pixels", "file_format"})  # `digest` covers the first and their size
REQUEST_FIELDS_NOT_IN_DIGEST: Final = frozenset(
    {"id", "deadline_s", "stream", "lane", "cache", "group", "param", "caller"}  # of the caller, the tenant is
)
_JSON: Final = json.JSONEncoder(separators=(",", ":"))
_DIGESTED: Final = 1024  # longer texts and bytes are represented by their digests


def answer_key(prompt: Prompt, model: str) -> str:
    """Hex digest; `model` identifies the served model, its revision, weight format and code."""
    return _digest(["answer", model, _of_fields(prompt, PROMPT_FIELDS_NOT_IN_KEY)])


def request_digest(request: ChatRequest) -> str | None:
    """Hex digest of a request whose prompt depends on nothing else; None if it has a picture at an address."""
    if has_addresses(request):
        return None
    return _digest(["request", request.caller.tenant, _of_fields(request, REQUEST_FIELDS_NOT_IN_DIGEST)])


def is_deterministic(sampling: Sampling) -> bool:
    """Whether the model gives the same answer again: noise depends on the seed, the position and the token only."""
    return sampling.temperature == 0 or sampling.seed is not None


def _digest(value: Any) -> str:
    return hashlib.sha256(_JSON.encode(value).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """A value as JSON, different for different values. A dict keeps its order: that of a schema is the answer's."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return value if len(value) <= _DIGESTED else ["text", _sha256(value.encode("utf-8", "surrogatepass"))]
        case bytes():
            return ["bytes", _sha256(value)]
        case np.ndarray():
            return ["array", str(value.dtype), list(value.shape), _sha256(np.ascontiguousarray(value).data)]
        case tuple() | list():
            return ["list", *map(_canonical, value)]
        case dict():
            return ["dict", *([_canonical(key), _canonical(each)] for key, each in value.items())]
        case Picture():
            return _of_fields(value, PICTURE_FIELDS_NOT_IN_KEY)
        case ImagePart():
            return _of_fields(value, frozenset({"param", "noun"}))
        case Pages():
            return _of_fields(value, frozenset({"param"}))
    return _of_fields(value, frozenset())


def _of_fields(value: Any, without: frozenset[str]) -> list[Any]:
    """The fields of a dataclass; those that do not count in its comparison are names in error messages."""
    counted = _counted_fields(type(value), without)  # type: ignore[arg-type]  # types are hashable
    return [type(value).__name__, *([name, _canonical(getattr(value, name))] for name in counted)]


@functools.cache
def _counted_fields(kind: type[Any], without: frozenset[str]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.compare and field.name not in without)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
