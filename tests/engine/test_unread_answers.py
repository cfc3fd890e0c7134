"""Answers that have unread: who reads them, what ends those that nobody reads, and pixels of their own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from serve_app.contracts import Picture, Prompt, Sampling, UnsentPixels
from serve_app.engine.unread_answers import UnreadAnswers, copied
from tests.ingress.client import soon

SHAPE = (2, 3, 3)


def prompt(id: str = "r", tenant: str = "one") -> Prompt:
    pictures = (Picture(np.ones(SHAPE, np.uint8), "a", 1, (3, 2)), Picture(UnsentPixels(SHAPE), "b", 1, (3, 2)))
    return Prompt(id, np.arange(3, dtype=np.int32), pictures, Sampling(), 1.0, tenant=tenant)


async def test_an_answer_is_read_once_by_its_own_request_and_tenant() -> None:
    unread: UnreadAnswers[str] = UnreadAnswers(cancel=lambda _: None)
    unread.add(prompt(), "events")
    assert unread.take(prompt(id="other")) is None
    assert unread.take(prompt(tenant="two")) is None
    assert [unread.take(prompt()), unread.take(prompt())] == ["events", None]


async def test_an_answer_that_is_not_read_in_time_is_cancelled_and_no_other_is() -> None:
    cancelled: list[str] = []
    unread: UnreadAnswers[list[str]] = UnreadAnswers(cancelled.append, kept_s=0.03)
    unread.add(prompt(), ["unread"])
    unread.add(prompt(id="read"), ["read"])
    unread.take(prompt(id="read"))
    await asyncio.sleep(0.02)
    unread._kept_s = 60
    unread.add(prompt(id="read"), ["again, later"])
    await soon(lambda: bool(cancelled))
    await asyncio.sleep(0.01)  # the time of the first "read" is over too
    assert cancelled == ["r"]
    assert len(unread) == 1


def test_a_copy_has_pixels_of_its_own_and_none_that_were_not_sent() -> None:
    one = prompt()
    same = copied(one)
    assert [picture.is_sent for picture in same.pictures] == [True, False]
    assert (same.pictures[0].sent_pixels() == one.pictures[0].sent_pixels()).all()
    assert not np.shares_memory(same.pictures[0].sent_pixels(), one.pictures[0].sent_pixels())
    assert replace(same, pictures=()).id == one.id
