"""Prompts, schemas and tools that take long to compute or to compile, and a bystander."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.attacks import CHAT, MIB, post, post_each, wait_until, watched_memory
from tests.cluster.bystander import ANSWER_LIMIT_S, SLOWER, Bystander, bystander
from tests.cluster.conftest import Service

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _memory(service: Service, request: pytest.FixtureRequest) -> Iterator[None]:
    with watched_memory(service, request.node.name):
        yield


def chat(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": value}})


def nested(depth: int) -> dict[str, Any]:
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "integer"}


def slow_schema(number: int) -> dict[str, Any]:
    """20 patterns that a text must match at once: their product has more states than any limit allows."""
    patterns = [{"pattern": f"^.*a.{{{length},{length + 20}}}[b-z]{number}.*$"} for length in range(20)]
    return schema({"type": "string", "allOf": patterns})


def test_schemas_that_are_slow_to_compile_delay_no_other(service: Service, undisturbed: Bystander):
    """30 of them made an innocent `json_object` wait for 29 to 42 s."""
    waits_s = []
    with bystander(service.base_url, undisturbed), ThreadPoolExecutor(1) as pool, service.client() as client:
        attack = pool.submit(post_each, service, [{"json": slow_schema(number)} for number in range(30)])
        innocent = [chat(response_format={"type": "json_object"}), schema({"type": "integer"})]
        while not attack.done():
            started = time.monotonic()
            assert client.post(CHAT, json=innocent[len(waits_s) % 2]).status_code == 200
            waits_s.append(time.monotonic() - started)
            time.sleep(0.2)
        assert set(attack.result()) <= {400, 503}
    assert max(waits_s) < max(ANSWER_LIMIT_S, SLOWER * max(undisturbed.answers_s)), sorted(waits_s)


def test_long_prompts_delay_no_short_one(service: Service, undisturbed: Bystander):
    """Four of 8,191 tokens made a bystander wait for 27 s."""
    text = " ".join(f"{number}" for number in range(1800))  # 7,900 tokens
    with bystander(service.base_url, undisturbed, least_s=8.0):
        assert set(post(service, 4, json=chat(text))) == {200}


def test_answers_with_many_biased_tokens_and_log_probabilities_delay_nobody(service: Service, undisturbed: Bystander):
    bias = {str(number): 0.5 for number in range(300, 1324)}
    body = chat(logit_bias=bias, logprobs=True, top_logprobs=20, ignore_eos=True) | {"max_tokens": 60}
    with bystander(service.base_url, undisturbed):
        assert set(post(service, 6, json=body)) == {200}


def test_many_tools_with_large_schemas_delay_nobody(service: Service, undisturbed: Bystander):
    properties = {f"p{n}": {"type": "string", "enum": [f"e{k}" for k in range(5)]} for n in range(20)}
    parameters = {"type": "object", "properties": properties}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": parameters}} for n in range(128)]
    with bystander(service.base_url, undisturbed):
        assert set(post(service, 8, json=chat(tools=tools))) == {400}


FAULTS: dict[str, dict[str, Any]] = {
    "a number as text": schema({"type": "string", "maxLength": '9})/ & /INJECTED/ & ({"'}),
    "required objects": chat(
        tool_choice="required",
        tools=[
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": [{"x": 1}]}}}
        ],
    ),
    "a reference to itself": schema({"$ref": "#"}),
    "references in a ring": schema(
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    ),
    "a pattern with many states": schema({"type": "string", "pattern": "(?:.{0,3}[0-9a-f].{0,3}){120}"}),
    "a deep schema": schema(nested(80)),
    "a host that is no name": chat()
    | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://xn--a/"}}]}]},
}


ANSWERED_SOMETIMES = ("a pattern with many states", "a deep schema")  # they compile within the limits of a fast machine


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_caller_did_wrong_is_no_failure_of_the_service(service: Service, fault: str):
    """Each gave a 500, or wrote into the grammar."""
    with service.client() as client:
        response = client.post(CHAT, json=FAULTS[fault])
    if fault in ANSWERED_SOMETIMES and response.status_code == 200:
        return
    assert (response.status_code, bool(response.json()["error"]["param"])) == (400, True)


def test_memory_is_returned_within_a_minute_of_the_attacks(service: Service, memory_at_rest: dict[str, int]):
    """Except for what the engine keeps: its cache of image features, and blocks that each step uses again."""
    assert wait_until(lambda: service.memory()["ingress"] <= 1.1 * memory_at_rest["ingress"] + 16 * MIB, 60)
    assert wait_until(lambda: service.memory()["preprocess"] <= 1.1 * memory_at_rest["preprocess"] + 16 * MIB, 60)
    assert service.memory()["engine"] <= 1.1 * memory_at_rest["engine"] + 256 * MIB
    assert set(post(service, 1, json=chat())) == {200}
