"""Reads fields of a platform's JSON: objects and texts, or a sentence that names the wrong field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MessageError(ValueError):
    """The JSON is not a message as its platform documents it."""


def read_object(value: Any, name: str) -> Mapping[str, Any]:
    """The value as an object. Raises MessageError."""
    if not isinstance(value, dict):
        raise MessageError(f"The field '{name}' is not an object.")
    return value


def read_text(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """The text of a field; an optional one may be missing or empty. Raises MessageError."""
    value = fields.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str) or (not value and not optional):
        raise MessageError(f"The field '{name}' is not a text.")
    return value
