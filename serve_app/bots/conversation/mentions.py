"""Removes the bot's own `@name` from the beginning of a text; an `@` elsewhere stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SPACES: Final = " \t\r\n\u2005\u3000\xa0"  # U+2005 follows a mention in WeCom's clients


def strip_mention(text: str, names: Sequence[str]) -> str:
    """The text without leading mentions of these names, which may contain spaces; an e-mail address is kept."""
    stripped = text.strip(_SPACES)
    for name in sorted(names, key=len, reverse=True):
        mention = f"@{name}"
        if name and stripped.startswith(mention):
            rest = stripped[len(mention) :]
            if not rest or rest[0] in _SPACES:
                return strip_mention(rest, names)
    return stripped
