"""Fairness of prefill: how many tokens of each prompt are computed in one step.

Shortest remaining prompt first has the least mean waiting time (L. Schrage, 1968), but a steady stream of short
prompts would starve a long one. So the oldest prompts get a fixed part of each step.
"""

from __future__ import annotations

from collections.abc import Sequence

OLDEST_SHARE = 0.25  # of the tokens of a step


def share_prefill(unread: Sequence[int], budget: int) -> list[int]:
    """Tokens for each prompt in this step; together `budget`, or less if fewer are unread.

    `unread` holds the tokens that are left of each prompt, in order of admission. A quarter of the budget goes to the
    oldest prompts. The rest goes to the prompts with the fewest tokens left; of equal ones, the older is first.

    A prompt with `n` tokens, behind older ones with `m` unread tokens, is therefore complete after at most
    ceil((n + m) / max(1, budget // 4)) steps, whatever arrives later.
    """
    shares = [0] * len(unread)
    oldest_budget = max(1, int(budget * OLDEST_SHARE))
    oldest_first = range(len(unread))
    left = budget - _give(shares, unread, oldest_first, oldest_budget)
    _give(shares, unread, sorted(oldest_first, key=lambda index: unread[index] - shares[index]), left)
    return shares


def _give(shares: list[int], unread: Sequence[int], order: Sequence[int], budget: int) -> int:
    """Add up to `budget` tokens to `shares`, in this order; returns how many were added."""
    left = budget
    for index in order:
        tokens = min(unread[index] - shares[index], left)
        shares[index] += tokens
        left -= tokens
    return budget - left
