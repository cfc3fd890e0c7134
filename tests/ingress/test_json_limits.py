"""Bodies whose structure would cost far more than their size."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.ingress.json_limits import MAX_ENTRIES, MAX_OBJECTS, MAX_VALUES, check_bytes, check_values
from tests.ingress.client import MakeClient, chat

URL = "/v1/chat/completions"
LISTS: dict[str, Any] = {
    "messages": lambda items: {"messages": items},
    "content": lambda items: {"messages": [{"role": "user", "content": items}]},
    "tools": lambda items: chat(tools=items),
    "enum": lambda items: chat(response_format={"type": "json_schema", "json_schema": {"schema": {"enum": items}}}),
    "stop": lambda items: chat(stop=items),
    "logit_bias": lambda items: chat(logit_bias={str(n): "x" for n, _ in enumerate(items)}),
}


@pytest.mark.parametrize("name", LISTS)
async def test_two_million_wrong_items_are_refused_by_the_lists_name(make_client: MakeClient, name: str) -> None:
    """They took 3 GiB and 14 s."""
    items = [1] * (200_000 if name == "logit_bias" else 900_000)
    response = await make_client().post(URL, content=json.dumps(LISTS[name](items)))
    assert response.status_code == 400
    assert name in response.json()["error"]["param"]
    assert f"limit is {MAX_ENTRIES}" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 4500},
        chat([{"type": "text", "text": "a"}] * 9000),
    ],
    ids=["messages", "content"],
)
async def test_a_list_of_thousands_of_objects_is_refused(make_client: MakeClient, body: dict[str, Any]) -> None:
    """Eight bodies of 9,000 messages blocked the event loop, and so health, for 2 s."""
    response = await make_client().post(URL, json=body)
    assert response.status_code == 400
    assert f"limit is {MAX_OBJECTS}" in response.json()["error"]["message"]


async def test_the_event_loop_runs_while_a_body_of_many_values_is_validated(make_client: MakeClient) -> None:
    parts = [{"type": "text", "text": "a"}] * 2000
    body = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b"}] * 4}
    now = asyncio.get_running_loop().time
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            before = now()
            await asyncio.sleep(0)
            longest_s = max(longest_s, now() - before)

    async def longest_share() -> float:
        """The longest time in which the loop did not run, as a share of the time of all requests."""
        nonlocal longest_s
        longest_s, begun = 0.0, now()
        watching = asyncio.create_task(watch())
        responses = await asyncio.gather(*(make_client().post(URL, json=body) for _ in range(6)))
        watching.cancel()
        assert {response.status_code for response in responses} == {200}
        return longest_s / (now() - begun)

    # A busy machine may stop this process for seconds, but not three times.
    for _ in range(3):
        if (share := await longest_share()) < 0.5:
            break
    assert share < 0.5


async def test_a_body_of_empty_objects_is_refused_before_it_is_parsed(make_client: MakeClient) -> None:
    content = b'{"messages":[' + b",".join([b"{}"] * 2_000_000) + b"]}"
    response = await make_client().post(URL, content=content)
    assert response.status_code == 400
    assert "brackets" in response.json()["error"]["message"]


async def test_a_deep_body_is_refused(make_client: MakeClient) -> None:
    response = await make_client().post(URL, content=b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_many_values_in_small_lists_are_refused(make_client: MakeClient) -> None:
    response = await make_client().post(URL, content=json.dumps({"messages": [[[1] * 100] * 100] * 50}))
    assert f"more than {MAX_VALUES} values" in response.json()["error"]["message"]


async def test_a_byte_order_mark_is_skipped(make_client: MakeClient) -> None:
    response = await make_client().post(URL, content=b"\xef\xbb\xbf" + json.dumps(chat()).encode())
    assert response.status_code == 200


def test_a_long_text_is_no_structure() -> None:
    text = "{[a, b], " * 50_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    check_bytes(body)
    check_values(json.loads(body))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=5), values, max_size=5),
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_an_ordinary_body_passes(body: dict[str, Any]) -> None:
    check_bytes(json.dumps(body).encode())
    check_values(body)
