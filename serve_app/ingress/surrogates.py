"""Halves of characters in JSON: `\\ud83d` alone, as clients cut an emoji, is read as U+FFFD."""

from __future__ import annotations

import re
from typing import Final

_HIGH, _LOW = rb"[dD][89abAB][0-9a-fA-F]{2}", rb"[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES: Final = re.compile(
    rb"\\(?:[^u]|u" + _HIGH + rb"\\u" + _LOW + rb"|u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})|u)", re.DOTALL
)


def replace_lone_surrogates(body: bytes) -> bytes:
    """The JSON text with each escaped lone surrogate replaced by U+FFFD; everything else stays as it is."""
    if rb"\ud" not in body and rb"\uD" not in body:
        return body
    return _ESCAPES.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)
