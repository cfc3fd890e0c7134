"""A kept answer: every event comes back as it was, and a damaged, forged or misplaced one does not."""

from __future__ import annotations

import dataclasses
import random

import pytest

from serve_app import contracts
from serve_app.cache.stored_answer import Codec, StoredAnswer
from serve_app.contracts import (
    Box,
    Boxed,
    Delta,
    Event,
    Finished,
    PictureSeen,
    PictureSource,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

EVENTS: list[Event] = [
    Started(40, 30, {}, (PictureSeen((56, 28), (28, 28), 2, PictureSource(0, 3), "d" * 64),), ("tools",), 16),
    Delta("Hm. 猫 \ud83d", 2, "reasoning"),
    Delta("Two", 1, logprobs=(TokenLogprob(5, b"\xff\x00", -0.1, ((6, b"x", -2.5),)),)),
    ToolCallDelta(0, "weather", "", 3),
    ToolCallDelta(0, None, '{"city": "Kyoto"}', 1),
    Finished("tool_calls", Usage(40, 7, 30, 2), {}, (Boxed("[[1,2,3,4]]", (Box((1, 2, 3, 4), (1, 2, 3, 4), 0),)),)),
]


def test_every_event_comes_back_as_it_was():
    codec = Codec(b"secret")
    assert codec.decode("k", codec.encode("k", EVENTS)) == StoredAnswer(tuple(EVENTS))


def test_every_class_of_an_event_can_be_kept():
    known = {type(event) for event in EVENTS}
    assert known == set(contracts.Event.__args__)


def test_an_answer_is_replayed_with_the_times_of_its_caller_and_all_prompt_tokens_cached():
    codec = Codec()
    stored = codec.decode("k", codec.encode("k", EVENTS))
    assert stored is not None
    started, *deltas, finished = stored.replayed({"cache": 0.5})
    assert started == dataclasses.replace(EVENTS[0], stages_ms={"cache": 0.5}, cache="hit")
    assert deltas == EVENTS[1:-1]
    assert isinstance(finished, Finished)
    assert (finished.stages_ms, finished.usage) == ({"cache": 0.5}, Usage(40, 7, 30, 2, 40))


@pytest.mark.parametrize("key", [b"", b"secret"])
def test_damage_at_any_place_is_found(key: bytes):
    codec = Codec(key)
    data = codec.encode("k", EVENTS)
    rng = random.Random(1)
    for _ in range(300):
        place = rng.randrange(len(data))
        damaged = data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        with pytest.raises(ValueError, match="signature"):
            codec.decode("k", damaged)
    for length in (0, 1, 31, 32, 33, len(data) - 1):
        with pytest.raises(ValueError, match="signature"):
            codec.decode("k", data[:length])


def test_the_answer_of_another_key_is_refused():
    codec = Codec()
    with pytest.raises(ValueError, match="signature"):
        codec.decode("other", codec.encode("k", EVENTS))


def test_an_answer_signed_with_another_secret_is_refused():
    with pytest.raises(ValueError, match="signature"):
        Codec(b"secret").decode("k", Codec(b"forged").encode("k", EVENTS))


def test_a_blocked_key_has_no_answer():
    codec = Codec(b"secret")
    assert codec.decode("k", codec.blocked("k")) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"5",
        b"[]",
        b"[5]",
        b'["text"]',
        b"[" * 100_000,
        b'{"class": "Delta"}',
        b'[{"class": "Usage", "prompt_tokens": 1}]',
    ],
)
def test_a_payload_that_is_no_answer_is_refused_also_with_a_checksum(payload: bytes):
    """Without a signing key whoever writes to Redis can make the checksum; it must not become an internal error."""
    codec = Codec()
    with pytest.raises((ValueError, TypeError, KeyError)):
        codec.decode("k", codec.sign("k", payload))


def test_an_answer_without_its_beginning_or_its_end_is_refused():
    codec = Codec()
    for events in (EVENTS[1:], EVENTS[:-1], [EVENTS[0], EVENTS[-1].usage, EVENTS[-1]]):
        with pytest.raises(ValueError, match="not an answer"):
            codec.decode("k", codec.encode("k", list(events)))
