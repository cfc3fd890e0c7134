"""Pixels that come ahead of their prompt: which prompt gets them, and for how long they are kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from serve_app.contracts import Picture, Prompt, Sampling, UnsentPixels
from serve_app.engine.held_pixels import HeldPixels

SHAPE = (2, 3, 3)


def prompt(*digests: str, id: str = "r", tenant: str = "one") -> Prompt:
    pictures = (Picture(np.full(SHAPE, n, np.uint8), digest, 1, (3, 2)) for n, digest in enumerate(digests))
    return Prompt(id, np.arange(3, dtype=np.int32), tuple(pictures), Sampling(), 1.0, tenant=tenant)


def light(full: Prompt) -> Prompt:
    return replace(full, pictures=tuple(replace(one, pixels=UnsentPixels(SHAPE)) for one in full.pictures))


async def test_a_prompt_gets_the_pixels_that_came_ahead_of_it_once() -> None:
    held, full = HeldPixels(), prompt("a", "b")
    held.put(full)
    taken = held.take(light(full))
    for one, same in zip(full.pictures, taken.pictures, strict=True):
        assert (one.sent_pixels() == same.sent_pixels()).all()
        assert not np.shares_memory(one.sent_pixels(), same.sent_pixels())
    assert len(held) == 0
    assert not held.take(light(full)).has_all_pixels


async def test_a_picture_whose_pixels_did_not_come_ahead_stays_without() -> None:
    held, full = HeldPixels(), prompt("a", "b")
    held.put(replace(full, pictures=(full.pictures[0], light(full).pictures[1])))
    assert [one.is_sent for one in held.take(light(full)).pictures] == [True, False]


async def test_another_request_tenant_or_picture_gets_none_of_them() -> None:
    held, full = HeldPixels(), prompt("a")
    for other in (prompt("a", id="other"), prompt("a", tenant="two"), prompt("b")):
        held.put(full)
        assert not held.take(light(other)).has_all_pixels


async def test_pixels_whose_prompt_does_not_come_are_dropped() -> None:
    held = HeldPixels(held_s=0.01)
    held.put(prompt("a"))
    held.put(prompt("a", id="other"))
    held.take(light(prompt("a")))
    assert len(held) == 1
    await asyncio.sleep(0.05)
    assert len(held) == 0
