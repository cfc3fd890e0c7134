"""The key of an answer: which fields it covers, and that no two questions share one."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.cache.key import (
    PICTURE_FIELDS_NOT_IN_KEY,
    PROMPT_FIELDS_NOT_IN_KEY,
    REQUEST_FIELDS_NOT_IN_DIGEST,
    answer_key,
    is_deterministic,
    request_digest,
)
from serve_app.caller import Caller
from serve_app.contracts import (
    ChatRequest,
    Constraint,
    ImagePart,
    Message,
    Pages,
    Picture,
    PictureSource,
    Prompt,
    Sampling,
    TextPart,
    Thinking,
    Tool,
    ToolCall,
    ToolUse,
)

PICTURE = Picture(np.zeros((28, 28, 3), np.uint8), "a" * 64, 1, (28, 28), PictureSource(0))
TOOL = Tool("weather", {"type": "function", "function": {"name": "weather", "parameters": {"a": 1, "b": 2}}})
PROMPT = Prompt("one", np.array([1, 2, 3], np.int32), (PICTURE,), Sampling(16, 0.0), 9.0)
MESSAGE = Message("user", (ImagePart(b"picture"), TextPart("Which number?")))
REQUEST = ChatRequest("one", (MESSAGE,), Sampling(temperature=0.0))

OTHER: dict[type, dict[str, Any]] = {  # another value of each field
    Prompt: {
        "id": "two",
        "token_ids": np.array([1, 2, 4], np.int32),
        "pictures": (),
        "sampling": Sampling(17, 0.0),
        "deadline_s": 8.0,
        "stages_ms": {"decode": 1.0},
        "stream": False,
        "tools": ToolUse((TOOL,)),
        "constraint": Constraint("json_object"),
        "thinking": Thinking(True),
        "raw": True,
        "lane": "batch",
        "tenant": "other",
        "continues": True,
        "ignored_fields": ("tools",),
        "clipped_max_tokens": 16,
        "checkpoint": "other",
    },
    Picture: {
        "pixels": np.ones((28, 28, 3), np.uint8),
        "digest": "b" * 64,
        "tokens": 2,
        "original_size": (56, 56),
        "source": PictureSource(0, page=2),
        "file_format": "png",
    },
    Sampling: {
        "max_tokens": 17,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 4,
        "stop": ("x",),
        "seed": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.5,
        "min_p": 0.5,
        "min_tokens": 2,
        "ignore_eos": True,
        "stop_token_ids": (5,),
        "logit_bias": ((5, 1.0),),
        "logprobs": 2,
    },
    ChatRequest: {
        "id": "two",
        "messages": (MESSAGE, MESSAGE),
        "sampling": Sampling(temperature=0.0, seed=1),
        "deadline_s": 8.0,
        "stream": False,
        "tools": ToolUse((TOOL,)),
        "constraint": Constraint("json_object"),
        "thinking": Thinking(True),
        "text": "Once",
        "special_tokens": False,
        "continue_last": True,
        "param": "prompt",
        "caller": Caller("two"),
        "lane": "batch",
        "cache": "refresh",
        "group": "two",
    },
}


def keys_of(kind: type, without: frozenset[str], example: Any, key: Any) -> set[str]:
    """The names of the fields whose change changes the key."""
    names = {field.name for field in dataclasses.fields(kind)}
    assert names == OTHER[kind].keys(), "give a new field another value above, and decide whether it is in the key"
    assert without <= names
    return {name for name in names if key(replace(example, **{name: OTHER[kind][name]})) != key(example)}


def test_the_key_covers_every_field_of_a_prompt_but_those_that_cannot_change_an_answer():
    covered = keys_of(Prompt, PROMPT_FIELDS_NOT_IN_KEY, PROMPT, lambda prompt: answer_key(prompt, "m"))
    assert covered == OTHER[Prompt].keys() - PROMPT_FIELDS_NOT_IN_KEY
    assert {"id", "deadline_s", "stages_ms", "stream", "lane"} == PROMPT_FIELDS_NOT_IN_KEY


def test_the_key_covers_every_field_of_sampling():
    covered = keys_of(
        Sampling, frozenset(), PROMPT.sampling, lambda sampling: answer_key(replace(PROMPT, sampling=sampling), "m")
    )
    assert covered == OTHER[Sampling].keys()


def test_the_key_covers_every_field_of_a_picture_by_its_digest():
    covered = keys_of(
        Picture,
        PICTURE_FIELDS_NOT_IN_KEY,
        PICTURE,
        lambda picture: answer_key(replace(PROMPT, pictures=(picture,)), "m"),
    )
    assert covered == OTHER[Picture].keys() - {"pixels", "file_format"}


def test_the_key_covers_the_model():
    assert answer_key(PROMPT, "fp_1") != answer_key(PROMPT, "fp_2")


def test_the_digest_of_a_request_covers_every_field_that_its_prompt_depends_on():
    covered = keys_of(ChatRequest, REQUEST_FIELDS_NOT_IN_DIGEST, REQUEST, request_digest)
    assert covered == OTHER[ChatRequest].keys() - REQUEST_FIELDS_NOT_IN_DIGEST


def test_the_digest_of_a_request_covers_the_tenant():
    assert request_digest(replace(REQUEST, caller=Caller(tenant="a"))) != request_digest(
        replace(REQUEST, caller=Caller(tenant="b"))
    )


def test_pages_of_a_file_are_in_the_digest():
    def of(part: ImagePart) -> str | None:
        return request_digest(replace(REQUEST, messages=(Message("user", (part,)),)))

    assert of(ImagePart(b"x", pages=Pages(((1, 2),)))) != of(ImagePart(b"x", pages=Pages(((1, 3),))))
    assert of(ImagePart(b"x", "a", pages=Pages(((1, 2),), "c"))) == of(
        ImagePart(b"x", "b", pages=Pages(((1, 2),), "d"))
    )


def test_a_request_with_a_picture_at_an_address_has_no_digest_because_the_address_may_return_another():
    message = Message("user", (ImagePart("https://shop.example/a.png"),))
    assert request_digest(replace(REQUEST, messages=(message,))) is None


def test_neighbours_in_a_list_do_not_flow_together():
    def of(*parts: str) -> str | None:
        return request_digest(replace(REQUEST, messages=(Message("user", tuple(map(TextPart, parts))),)))

    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("abc", "")}) == 4


def test_a_long_text_is_covered_to_its_last_character():
    def of(text: str) -> str | None:
        return request_digest(replace(REQUEST, messages=(Message("user", (TextPart(text),)),)))

    assert of("x" * 10_000 + "a") != of("x" * 10_000 + "b")


def test_arguments_of_an_earlier_tool_call_are_covered():
    def of(arguments: dict[str, Any]) -> str | None:
        calls = (ToolCall("c1", "weather", arguments),)
        return request_digest(replace(REQUEST, messages=(Message("assistant", (), tool_calls=calls),)))

    assert of({"city": "Kyoto"}) != of({"city": "Osaka"})
    assert of({"day": 1}) != of({"day": "1"})


def test_the_order_of_a_schemas_properties_is_covered_because_the_answer_follows_it():
    def of(*names: str) -> str:
        tool = Tool("t", {"function": {"parameters": {"properties": {name: {} for name in names}}}}, strict=True)
        return answer_key(replace(PROMPT, tools=ToolUse((tool,))), "m")

    assert of("a", "b") != of("b", "a")


@pytest.mark.parametrize(
    ("sampling", "repeats"),
    [
        (Sampling(temperature=0.0), True),
        (Sampling(temperature=1.0, seed=3), True),
        (Sampling(temperature=1.0), False),
        (Sampling(temperature=0.1, top_k=1), False),
    ],
)
def test_an_answer_is_deterministic_at_temperature_0_or_with_a_seed(sampling: Sampling, repeats: bool):
    assert is_deterministic(sampling) is repeats
