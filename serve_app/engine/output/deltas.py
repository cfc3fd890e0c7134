"""Pieces of an answer that follow each other, as one: fewer events for the same text."""

from __future__ import annotations

from typing import TypeAlias

from serve_app.contracts import Delta, ToolCallDelta

Piece: TypeAlias = Delta | ToolCallDelta


def merge(first: Piece, second: Piece) -> Piece | None:
    """Both as one piece; None if they are of different channels or calls."""
    if isinstance(first, Delta) and isinstance(second, Delta) and first.channel == second.channel:
        return Delta(
            first.text + second.text,
            first.tokens + second.tokens,
            first.channel,
            first.logprobs + second.logprobs,
        )
    if isinstance(first, ToolCallDelta) and isinstance(second, ToolCallDelta) and first.index == second.index:
        return ToolCallDelta(first.index, first.name, first.arguments + second.arguments, first.tokens + second.tokens)
    return None


def append_piece(pieces: list[Piece], piece: Piece) -> None:
    """Add a piece to others, as part of the last one where that is possible."""
    both = merge(pieces[-1], piece) if pieces else None
    if both is None:
        pieces.append(piece)
    else:
        pieces[-1] = both
