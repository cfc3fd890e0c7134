"""Fairness of prefill: short prompts come first, and no prompt starves, whatever arrives."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.fairness import share_prefill

BUDGETS = st.integers(1, 2048)


@given(st.lists(st.integers(1, 9000), max_size=20), BUDGETS)
def test_a_step_computes_as_many_tokens_as_it_may(unread: list[int], budget: int) -> None:
    shares = share_prefill(unread, budget)
    assert sum(shares) == min(budget, sum(unread))
    assert all(0 <= share <= left for share, left in zip(shares, unread, strict=True))


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20), st.integers(8, 2048), st.data())
def test_a_prompt_shorter_than_all_others_is_complete_in_its_first_step(
    others: list[int], budget: int, data: st.DataObject
) -> None:
    shortest = data.draw(st.integers(1, max(1, min(budget // 2, min(others) - budget // 4 - 1))))
    shares = share_prefill([*others, shortest], budget)
    if shortest < min(others) - budget // 4:
        assert shares[-1] == shortest


@given(st.integers(1, 9000), st.lists(st.integers(1, 9000), max_size=5), BUDGETS, st.data())
def test_no_prompt_starves(prompt: int, older: list[int], budget: int, data: st.DataObject) -> None:
    """New prompts arrive in every step, as short as an attacker likes."""
    bound = ceil((prompt + sum(older)) / max(1, budget // 4))
    if bound > 300:
        return
    unread = [*older, prompt]
    place = len(older)  # of the prompt that is watched
    for _ in range(bound):
        unread += data.draw(st.lists(st.integers(1, 20), max_size=4))
        left = [tokens - share for tokens, share in zip(unread, share_prefill(unread, budget), strict=True)]
        if left[place] == 0:
            return
        place -= sum(tokens == 0 for tokens in left[:place])
        unread = [tokens for tokens in left if tokens]
    raise AssertionError(f"The prompt is not complete after {bound} steps.")
