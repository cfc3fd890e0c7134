"""Cuts Markdown to a number of UTF-8 bytes: on characters and lines, with closed code blocks."""

from __future__ import annotations

from typing import Final

_FENCE: Final = "```"
_CLOSED: Final = f"\n{_FENCE}"
_MAX_OPENING: Final = 23  # characters of an opening line that are written again: the fence and a language


def cut_at(text: str, max_bytes: int) -> int:
    """How many characters fit into `max_bytes` bytes, with a fence that closes their last code block."""
    if len(text.encode()) <= max_bytes:
        return len(text)
    head = text.encode()[: max(0, max_bytes - len(_CLOSED))].decode(errors="ignore")
    line_end = head.rfind("\n") + 1
    return line_end if line_end > len(head) // 2 else len(head)


def rest_after(text: str, position: int) -> str:
    """The text after a cut, shorter than the text; a code block that was cut is opened again if that is possible.

    All of the text if it is shorter than what was shown: then it is another one.
    """
    if position > len(text):
        return text
    opening, rest = open_fence(text[:position]), text[position:].lstrip("\n")
    return f"{opening}\n{rest}" if opening and rest and len(opening) + 1 < position else rest


def cut(text: str, max_bytes: int) -> tuple[str, str]:
    """The beginning of at most `max_bytes` bytes, with its last code block closed, and the rest."""
    position = cut_at(text, max_bytes)
    if position == len(text):
        return text, ""
    return close_fence(text[:position]), rest_after(text, position)


def pieces(text: str, max_bytes: int) -> list[str]:
    """The text in pieces of at most `max_bytes` bytes."""
    found = []
    while text:
        head, rest = cut(text, max_bytes)
        assert len(rest) < len(text), f"{max_bytes} bytes are not enough for one character"
        found.append(head)
        text = rest
    return found


def open_fence(text: str) -> str:
    """The line that opens the code block in which the text ends, shortened; empty if it ends in none."""
    opening = ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith(_FENCE) and _FENCE not in line[len(_FENCE) :]:  # ```x``` is code within a line
            opening = "" if opening else line[:_MAX_OPENING]
    return opening


def close_fence(text: str) -> str:
    """The text, whose last code block is closed."""
    return f"{text.rstrip(chr(10))}{_CLOSED}" if open_fence(text) else text


def neutralize_think(text: str) -> str:
    """The text without working `<think>` tags, which WeCom's client would fold away."""
    return text.replace("<think>", "<\u200bthink>").replace("</think>", "</\u200bthink>")
