"""References to items of recent responses: AI SDK's default way of sending a conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.ingress.responses.input_items import ItemReference, MessageItem
from serve_app.ingress.responses.output_items import MessageOutput
from serve_app.ingress.responses.recent_items import RecentItems
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, events_of
from tests.ingress.responses.test_routes import EVERYTHING, URL

QUESTION = {"role": "user", "content": "And then?"}


def references(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "item_reference", "id": item["id"]} for item in items]


def message(number: int, text: str = "x" * 100) -> MessageOutput:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": [content], "status": "completed"}  # type: ignore[list-item]


def reference(number: int) -> ItemReference:
    return ItemReference(type="item_reference", id=f"msg_{number}")


@pytest.mark.parametrize("stream", [True, False])
async def test_references_are_read_as_the_items_themselves(make_client: MakeClient, stream: bool) -> None:
    answer = FakeAnswer(*EVERYTHING)
    client = make_client(answer)
    first = await client.post(URL, json={"input": "?", "stream": stream})
    items = (json.loads(events_of(first)[-1])["response"] if stream else first.json())["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "x"}
        for item in items
        if item["type"] == "function_call"
    ]
    for earlier in (items, references(items)):
        assert (await client.post(URL, json={"input": [QUESTION, *earlier, *results]})).status_code == 200
    sent, referred = answer.requests[-2:]
    assert referred.messages == sent.messages
    assert referred.messages[1].reasoning == "Rain is wet."


@pytest.mark.parametrize(
    ("store", "settings"), [(False, {}), (True, {"recent_items_bytes": 0}), (None, {"recent_items_bytes": 0})]
)
async def test_nothing_is_kept_where_the_caller_or_a_setting_says_so(
    make_client: MakeClient, store: bool | None, settings: dict[str, Any]
) -> None:
    client = make_client(FakeAnswer("x"), settings=settings)
    items = (await client.post(URL, json={"input": "?", "store": store})).json()["output"]
    refused = await client.post(URL, json={"input": [QUESTION, *references(items), QUESTION]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[1].id")


def test_the_oldest_items_are_dropped_first() -> None:
    recent = RecentItems(max_bytes=2000)
    recent.add("acme", [message(number) for number in range(20)])
    resolved = recent.resolve("acme", [reference(number) for number in range(20)])
    kept = [isinstance(item, MessageItem) for item in resolved]
    assert 3 < sum(kept) < 10
    assert kept == sorted(kept)


def test_an_item_above_the_limit_is_not_kept() -> None:
    recent = RecentItems(max_bytes=2000)
    recent.add("acme", [message(1, "x" * 3000)])
    assert recent.resolve("acme", [reference(1)]) == [reference(1)]
    recent.add("acme", [message(2)])
    assert recent.resolve("acme", [reference(2)]) != [reference(2)]


def test_an_item_is_found_by_its_own_tenant_only() -> None:
    recent = RecentItems(max_bytes=2000)
    recent.add("acme", [message(1)])
    assert recent.resolve("other", [reference(1)]) == [reference(1)]
    assert recent.resolve("acme", [reference(1)]) != [reference(1)]
