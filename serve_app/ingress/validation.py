"""Pydantic's validation errors as one InvalidRequest: a sentence, and the field as `param`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from serve_app.errors import InvalidRequest

MAX_QUOTED: Final = 100  # characters of a request's own text that an error message repeats

# Fields of several types, and lists of them: pydantic puts the name of the type it chose after the field or index.
_UNIONS: Final = ("response_format", "format", "tool_choice", "prompt", "source")
_LISTS_OF_UNIONS: Final = ("messages", "content", "input", "output")

_SENTENCES: Final = {
    "missing": "{param} is required.",
    "extra_forbidden": "{param} is not a field of this request.",
    "union_tag_not_found": "{param} is required.",
    "none_required": "{param} is not supported; leave it out.",
    "model_type": "{param} must be an object.",
    "model_attributes_type": "{param} must be an object.",
    "dict_type": "{param} must be an object.",
    "list_type": "{param} must be a list.",
    "too_short": "{param} must have {min_length} or more entries, not {actual_length}.",
    "too_long": "{param} may have {max_length} entries at most.",
    "string_too_short": "{param} must have {min_length} or more characters.",
    "string_too_long": "{param} may have {max_length} characters at most.",
    "string_pattern_mismatch": "{param} must match {pattern}.",
}


def invalid_fields(error: ValidationError) -> InvalidRequest:
    return invalid_request(error.errors(include_url=False))


def invalid_request(errors: Sequence[Any]) -> InvalidRequest:
    """The first of pydantic's error dicts as a sentence with its `param`; the others are counted."""
    first = errors[0]
    param = truncate(_path(first["loc"]), 2 * MAX_QUOTED)
    details: dict[str, Any] = first.get("ctx", {})
    kind: str = first["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        param = f"{param}.{_discriminator(details)}"
    name = f"'{param}'" if param else "The body"
    if kind == "union_tag_invalid":
        message = f"{name} is '{truncate(details['tag'])}'; supported here: {details['expected_tags']}."
    elif kind in _SENTENCES:
        message = _SENTENCES[kind].format(param=name, **details)
    else:
        rule = first["msg"].removeprefix("Value error, ")
        message = f"{name} {rule}" if rule.startswith("must") else f"{name}: {rule}"
        message = message.replace(": Input should", " must", 1)
        value = first.get("input")
        if (isinstance(value, int | float) and not isinstance(value, bool)) or kind == "literal_error":
            message += f", not {truncate(repr(value))}"
        message += "."
    if others := len(errors) - 1:
        message += " 1 more field is invalid." if others == 1 else f" {others} more fields are invalid."
    return InvalidRequest(message, param or None)


def truncate(text: str, length: int = MAX_QUOTED) -> str:
    """A caller's own text, short enough to be repeated in a message."""
    return text if len(text) <= length else f"{text[:length]}…"


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for place, step in enumerate(location):
        if place == 0 and step == "body":
            continue
        if isinstance(step, int):
            path += f"[{step}]"
        elif step == "[key]" or _is_type(location, place):
            continue  # not a field
        else:
            path += f".{step}" if path else step
    return path


def _is_type(location: Sequence[str | int], place: int) -> bool:
    before = location[place - 1] if place else None
    if isinstance(before, int):
        return place >= 2 and location[place - 2] in _LISTS_OF_UNIONS
    return before in _UNIONS


def _discriminator(details: dict[str, Any]) -> str:
    """The field that decides between types; where a function decides, it looks at `type`."""
    name: str = details["discriminator"].strip("'")
    return "type" if name.endswith("()") else name
