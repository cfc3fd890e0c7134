"""A thousand near-identical requests through the real preprocess: no request gets the answer of another one.

The fake model's answer names all that may decide an answer, taken from the request and not from the prompt.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from serve_app.cache.answer_cache import AnswerCache
from serve_app.cache.store import MemoryStore
from serve_app.caller import Caller
from serve_app.contracts import (
    ChatRequest,
    Constraint,
    Delta,
    Events,
    ImagePart,
    Message,
    Prompt,
    Sampling,
    TextPart,
    Thinking,
    Tool,
    ToolCall,
    ToolUse,
)
from serve_app.metrics import SilentMeter
from serve_app.preprocess.prepare import Preprocessor
from serve_app.settings import ModelSettings, PreprocessSettings
from serve_app.settings_cache import CacheSettings
from tests.fakes import FakeAnswer
from tests.preprocess.decoders import close_shared_decoders, shared_decoders

REQUESTS = 1000


def png(*changed: tuple[int, int]) -> bytes:
    """A picture, with these pixels one step brighter."""
    picture = Image.new("RGB", (56, 56), (90, 90, 90))
    for place in changed:
        picture.putpixel(place, (91, 90, 90))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def tool(name: str, *properties: str) -> Tool:
    parameters = {"type": "object", "properties": {each: {"type": "string"} for each in properties}}
    return Tool(name, {"type": "function", "function": {"name": name, "parameters": parameters}})


PICTURES = (png(), png((0, 0)), png((55, 55)), png((0, 0), (55, 55)))
TEXTS = ("Which number?", "Which number? ", "which number?", "Which", "")
TURNS: tuple[tuple[Message, ...], ...] = (
    (),
    (Message("user", (TextPart("Hi"),)), Message("assistant", (TextPart("Hello"),))),
    (Message("user", (TextPart("Hi"),)), Message("assistant", (TextPart("Hello."),))),
    (Message("system", (TextPart("Be brief."),)),),
    (
        Message("user", (TextPart("Hi"),)),
        Message("assistant", (), tool_calls=(ToolCall("c", "weather", {"city": "Kyoto"}),)),
        Message("tool", (TextPart("Rain"),), tool_call_id="c"),
    ),
)
TOOLS = (
    None,
    ToolUse((tool("weather", "city", "day"),)),
    ToolUse((tool("weather", "day", "city"),)),
    ToolUse((tool("weather2", "city", "day"),)),
    ToolUse((tool("weather", "city", "day"),), required=True),
)
CONSTRAINTS = (
    None,
    Constraint("json_object"),
    Constraint("json_schema", '{"type":"object","properties":{"a":{},"b":{}}}'),
    Constraint("json_schema", '{"type":"object","properties":{"b":{},"a":{}}}'),
    Constraint("regex", "[0-9]+"),
    Constraint("choice", '["1","2"]'),
)
SAMPLINGS = (
    Sampling(16, 0.0),
    Sampling(17, 0.0),
    Sampling(16, 0.5, seed=1),
    Sampling(16, 0.5, seed=2),
    Sampling(16, 0.5, 0.9, seed=1),
    Sampling(16, 0.0, stop=("2",)),
    Sampling(16, 0.0, logprobs=1),
    Sampling(16, 0.0, repetition_penalty=1.1),
    Sampling(16, 0.0, logit_bias=((5, 1.0),)),
)


def draw(rng: random.Random, number: int) -> tuple[str, ChatRequest]:
    """A model and a request; every second one differs from a fixed request in one or two places only."""
    often_first = number % 2 == 0

    def one(choices: Any) -> Any:
        return choices[0] if often_first and rng.random() < 0.8 else rng.choice(choices)

    picture: tuple[ImagePart, ...] = tuple(ImagePart(each) for each in rng.sample(PICTURES, one((1, 2, 0))))
    last = (
        Message("user", (*picture, TextPart(one(TEXTS)))) if picture else Message("user", (TextPart(one(TEXTS[:4])),))
    )
    constraint = one(CONSTRAINTS)
    return one(("fp_1", "fp_2")), ChatRequest(
        f"q{number}",
        (*one(TURNS), last),
        one(SAMPLINGS),
        stream=rng.random() < 0.5,
        tools=None if constraint else one(TOOLS),
        constraint=constraint,
        thinking=one((Thinking(False), Thinking(True))),
        caller=Caller(f"caller {number}", one(("a", "b"))),
    )


def fingerprint(model: str, request: ChatRequest) -> str:
    """Everything that may decide the answer."""
    return repr((model, replace(request, id="", stream=True, caller=Caller(tenant=request.caller.tenant))))


@pytest.fixture
async def preprocessor() -> AsyncIterator[Preprocessor]:
    made = Preprocessor(ModelSettings(), PreprocessSettings(), SilentMeter(), decoders=shared_decoders())
    yield made
    made._cpu.shutdown(wait=False)
    close_shared_decoders()


async def test_no_request_gets_the_answer_of_another_picture_model_tenant_sampling_tool_schema_or_turn(
    preprocessor: Preprocessor,
):
    store, rng = MemoryStore(2**26), random.Random(2026)
    caches = {model: AnswerCache(CacheSettings(), model, SilentMeter(), store) for model in ("fp_1", "fp_2")}
    expected: set[str] = set()
    generated = hits = 0

    async def ask(model: str, request: ChatRequest) -> None:
        nonlocal generated, hits
        truth = fingerprint(model, request)

        async def prepare() -> Prompt:
            return await preprocessor.prepare(request)

        def generate(prompt: Prompt) -> Events:
            nonlocal generated
            generated += 1
            return FakeAnswer(truth)(request)

        async with aclosing(caches[model].answer(request, prepare, generate)) as events:
            received = [event async for event in events]
        assert [event.text for event in received if isinstance(event, Delta)] == [truth]
        hits += received[0].cache == "hit"
        expected.add(truth)

    requests = [draw(rng, number) for number in range(REQUESTS)]
    for start in range(0, REQUESTS, 8):  # eight at the same time, so that requests join each other too
        await asyncio.gather(*(ask(*each) for each in requests[start : start + 8]))
    assert generated == len(expected)
    assert hits == REQUESTS - generated
    assert hits > 100
    assert generated > 300
