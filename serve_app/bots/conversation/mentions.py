"""Removes the bot's own `@name` from the beginning of a text; an `@` elsewhere stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SPACES: Final = " \t\r\n\u2005\u3000\xa0"  # U+2005 follows a mention in WeCom's clients


def strip_mention(text: str, names: Sequence[str]) -> str:
    """The text without leading mentions of these names, which may contain spaces; an e-mail address is kept."""
    mentions = sorted((f"@{name}" for name in names if name), key=len, reverse=True)
    start, text = 0, text.strip(_SPACES)
    while (end := _mention_end(text, start, mentions)) is not None:
        start = end
        while start < len(text) and text[start] in _SPACES:
            start += 1
    return text[start:]


def _mention_end(text: str, start: int, mentions: Sequence[str]) -> int | None:
    """Where a mention that begins at `start` ends; None if there is none."""
    for mention in mentions:
        end = start + len(mention)
        if text.startswith(mention, start) and (end == len(text) or text[end] in _SPACES):
            return end
    return None
