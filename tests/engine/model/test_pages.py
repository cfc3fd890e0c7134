"""Pages: shared beginnings are found, nothing is given twice, what is needed is given up oldest first."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.model.pages import PAGE_TOKENS, PagePool, prompt_keys
from tests.engine.conftest import IMAGE


def test_pages_with_known_keys_are_shared_and_the_others_are_fresh() -> None:
    pool = PagePool(6)
    first, known = pool.reserve([], 2) or ([], 0)
    assert (len(first), known) == (2, 0)
    pool.publish(first[0], b"a")
    second, known = pool.reserve([b"a", b"b"], 2) or ([], 0)
    assert (second[0], known) == (first[0], 1)
    assert second[1] not in first
    assert pool.used == 3


def test_a_known_page_without_users_stays_until_its_memory_is_needed() -> None:
    pool = PagePool(3)
    pages, _ = pool.reserve([], 2) or ([], 0)
    for page, key in zip(pages, (b"a", b"b"), strict=True):
        pool.publish(page, key)
    pool.release(pages)
    assert pool.used == 0
    again, known = pool.reserve([b"a", b"b"], 2) or ([], 0)
    assert (again, known) == (pages, 2)
    pool.release(again)
    taken, _ = pool.reserve([], 1) or ([], 0)
    assert taken == [pages[1]]  # the end of a chain goes first
    assert (pool.reserve([b"a", b"b"], 1) or ([], 0))[1] == 1


def test_forgotten_pages_are_those_of_one_user_and_are_not_found() -> None:
    pool = PagePool(5)
    first, _ = pool.reserve([], 3) or ([], 0)
    for page, key in zip(first, (b"a", b"b"), strict=False):
        pool.publish(page, key)
    shared, known = pool.reserve([b"a"], 1) or ([], 0)
    assert (shared, known) == (first[:1], 1)
    assert pool.forget(first) == first[1:]
    pool.release(first)
    pool.release(shared)
    assert pool.used == 0
    assert (pool.reserve([b"a", b"b"], 4) or ([], 0))[1] == 1


def test_a_reservation_that_does_not_fit_takes_nothing() -> None:
    pool = PagePool(4)
    pages, _ = pool.reserve([], 1) or ([], 0)
    pool.publish(pages[0], b"a")
    pool.release(pages)
    assert pool.reserve([b"a"], 4) is None
    assert pool.used == 0
    assert pool.reserve([b"a"], 3) is not None


@given(st.data())
def test_no_page_is_lost_or_given_twice(data: st.DataObject) -> None:
    pool = PagePool(9)
    held: list[tuple[list[int], list[bytes]]] = []
    for _ in range(data.draw(st.integers(1, 30))):
        if held and data.draw(st.booleans()):
            pool.release(held.pop(data.draw(st.integers(0, len(held) - 1)))[0])
            continue
        keys = [bytes([data.draw(st.integers(0, 2)), index]) for index in range(data.draw(st.integers(0, 3)))]
        reserved = pool.reserve(keys, len(keys) + data.draw(st.integers(1, 3)))
        if reserved is None:
            continue
        pages, known = reserved
        assert len(set(pages)) == len(pages)
        others = {page for their_pages, _ in held for page in their_pages}
        assert not others & set(pages[known:])
        for page, key in zip(pages, keys, strict=False):
            pool.publish(page, key)
        held.append((pages, keys))
        assert pool.used == len({page for their_pages, _ in held for page in their_pages})
    for pages, _ in held:
        pool.release(pages)
    assert pool.used == 0
    assert pool.reserve([], 8) is not None


def shown(digest: str, side: int = 112) -> Picture:
    return Picture(np.zeros((side, 112, 3), dtype=np.uint8), digest, 16 * side // 112, (112, side))


def asked(*pictures: Picture, tenant: str = "", last: int = 7) -> list[bytes]:
    """Keys of a prompt that shows the first picture in its first page and the second in its second page."""
    ids = np.full(3 * PAGE_TOKENS, 5, dtype=np.int32)
    ids[20 : 20 + 16], ids[80 : 80 + 16], ids[-1] = IMAGE, IMAGE, last
    one = Prompt("p", ids, pictures, Sampling(), 60.0)
    return prompt_keys(dataclasses.replace(one, tenant=tenant), ids == IMAGE)


def shared(first: list[bytes], second: list[bytes]) -> int:
    """Pages that two prompts have in common."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


def test_keys_are_equal_as_far_as_tokens_and_pictures_are_and_never_across_tenants() -> None:
    base = asked(shown("a"), shown("b"))
    assert shared(base, asked(shown("a"), shown("b"))) == 3
    assert shared(base, asked(shown("a"), shown("b"), last=8)) == 2
    assert shared(base, asked(shown("a"), shown("c"))) == 1
    assert shared(base, asked(shown("c"), shown("b"))) == 0
    assert shared(base, asked(shown("a"), shown("b"), tenant="other")) == 0


def test_a_picture_of_another_shape_has_other_keys() -> None:
    tall = Picture(np.zeros((56, 224, 3), dtype=np.uint8), "a", 16, (224, 56))
    assert shared(asked(shown("a"), shown("b")), asked(tall, shown("b"))) == 0
