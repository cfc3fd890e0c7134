"""Cuts Markdown to a number of UTF-8 bytes: on characters and lines, with closed code blocks."""

from __future__ import annotations

from typing import Final

_FENCE: Final = "```"
_CLOSED: Final = f"\n{_FENCE}"


def cut_at(text: str, max_bytes: int) -> int:
    """How many characters fit into `max_bytes` bytes, with a fence that closes their last code block."""
    if len(text.encode()) <= max_bytes:
        return len(text)
    head = text.encode()[: max(0, max_bytes - len(_CLOSED))].decode(errors="ignore")
    line_end = head.rfind("\n") + 1
    return line_end if line_end > len(head) // 2 else len(head)


def rest_after(text: str, position: int) -> str:
    """The text after a cut; a code block that was cut is opened again."""
    opening, rest = open_fence(text[:position]), text[position:].lstrip("\n")
    return f"{opening}\n{rest}" if opening and rest else rest


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
        head, text = cut(text, max_bytes)
        found.append(head)
    return found


def open_fence(text: str) -> str:
    """The line that opens the code block in which the text ends; empty if it ends in none."""
    opening = ""
    for line in text.splitlines():
        if line.lstrip().startswith(_FENCE):
            opening = "" if opening else line.strip()
    return opening


def close_fence(text: str) -> str:
    """The text, whose last code block is closed."""
    return f"{text.rstrip(chr(10))}{_CLOSED}" if open_fence(text) else text


def neutralize_think(text: str) -> str:
    """The text without working `<think>` tags, which WeCom's client would fold away."""
    return text.replace("<think>", "<\u200bthink>").replace("</think>", "</\u200bthink>")
