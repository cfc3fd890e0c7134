"""Fairness of prefill: how many tokens of each prompt are computed in one step.

Shortest remaining prompt first has the least mean waiting time (L. Schrage, 1968), but a steady stream of short
prompts would starve a long one. So the oldest prompts get a fixed part of each step. Prompts of the batch lane get what
the interactive ones leave, and a small part at least.
"""

from __future__ import annotations

from collections.abc import Sequence

OLDEST_SHARE = 0.25  # of the tokens of a step
BATCH_SHARE = 1 / 32  # of the tokens of a step, for the batch lane while the interactive one could use all of them


def share_lanes(unread: Sequence[int], in_batch_lane: Sequence[bool], budget: int) -> list[int]:
    """Tokens for each prompt in this step, as `share_prefill` in each lane; `in_batch_lane` marks those of it.

    In every step the batch lane gets at least 1/32 of the budget, so an interactive prompt takes at most 32/31 of its
    steps without a batch lane, and a batch prompt has the bound of `share_prefill` with 1/32 of the budget.
    """
    places = {lane: [index for index, other in enumerate(in_batch_lane) if other is lane] for lane in (False, True)}
    lanes = {lane: [unread[index] for index in indices] for lane, indices in places.items()}
    kept = min(sum(lanes[True]), max(1, int(budget * BATCH_SHARE))) if budget > 1 else 0
    first = share_prefill(lanes[False], budget - kept)
    second = share_prefill(lanes[True], budget - sum(first))
    shares = [0] * len(unread)
    for index, tokens in zip((*places[False], *places[True]), (*first, *second), strict=True):
        shares[index] = tokens
    return shares


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
