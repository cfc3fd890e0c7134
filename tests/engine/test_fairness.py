"""Fairness of prefill: short prompts come first, batch ones last, and no prompt starves, whatever arrives."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.fairness import share_lanes, share_prefill

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


LANES = st.lists(st.tuples(st.integers(1, 9000), st.booleans()), max_size=20)  # (unread tokens, in the batch lane)


@given(LANES, st.integers(16, 2048))
def test_both_lanes_together_use_the_budget(prompts: list[tuple[int, bool]], budget: int) -> None:
    unread, background = [tokens for tokens, _ in prompts], [lane for _, lane in prompts]
    shares = share_lanes(unread, background, budget)
    assert sum(shares) == min(budget, sum(unread))
    assert all(0 <= share <= left for share, left in zip(shares, unread, strict=True))


@given(LANES, st.integers(16, 2048))
def test_background_prompts_cost_interactive_ones_a_thirty_second_of_a_step(
    prompts: list[tuple[int, bool]], budget: int
) -> None:
    unread, background = [tokens for tokens, _ in prompts], [lane for _, lane in prompts]
    shares = share_lanes(unread, background, budget)
    interactive = sum(share for share, lane in zip(shares, background, strict=True) if not lane)
    alone = min(budget, sum(tokens for tokens, lane in prompts if not lane))
    assert interactive >= min(alone, budget - max(1, budget // 32))


@given(st.integers(1, 31 * 1024), st.integers(1, 9000), st.integers(32, 1024))
def test_a_background_prompt_delays_an_interactive_one_by_one_step_at_most(
    prompt: int, background: int, budget: int
) -> None:
    """For a prompt of 30 steps or less."""
    prompt = min(prompt, 30 * budget)
    steps, unread = 0, [prompt, background]
    while unread[0]:
        unread = [left - share for left, share in zip(unread, share_lanes(unread, [False, True], budget), strict=True)]
        steps += 1
    assert steps <= ceil(prompt / budget) + 1


@given(st.integers(1, 400), st.integers(16, 2048), st.data())
def test_no_background_prompt_starves(prompt: int, budget: int, data: st.DataObject) -> None:
    """More interactive prompts than one step can compute are there in every step."""
    left = prompt
    for _ in range(ceil(prompt / max(1, budget // 32))):
        interactive = data.draw(st.lists(st.integers(1, 9000), max_size=3))
        left -= share_lanes([*interactive, 3 * budget, left], [False] * (len(interactive) + 1) + [True], budget)[-1]
        if left == 0:
            return
    raise AssertionError(f"{left} tokens of the background prompt are left.")
