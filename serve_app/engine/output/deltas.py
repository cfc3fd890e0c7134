"""Joins consecutive deltas of one channel or tool call: fewer events for the same text."""

from __future__ import annotations

from typing import Any, TypeAlias

from serve_app.contracts import Delta, ToolCallDelta

AnyDelta: TypeAlias = Delta | ToolCallDelta


def append_delta(events: list[Any], event: object) -> None:
    """Append an event; a delta becomes part of the last one if both are of the same channel or call."""
    joined = _join(events[-1], event) if events else None
    if joined is None:
        events.append(event)
    else:
        events[-1] = joined


def _join(first: object, second: object) -> AnyDelta | None:
    """Both deltas as one; None if they are not deltas of the same channel or call."""
    if isinstance(first, Delta) and isinstance(second, Delta) and first.channel == second.channel:
        tokens, logprobs = first.tokens + second.tokens, first.logprobs + second.logprobs
        return Delta(first.text + second.text, tokens, first.channel, logprobs)
    if isinstance(first, ToolCallDelta) and isinstance(second, ToolCallDelta) and first.index == second.index:
        return ToolCallDelta(first.index, first.name, first.arguments + second.arguments, first.tokens + second.tokens)
    return None
