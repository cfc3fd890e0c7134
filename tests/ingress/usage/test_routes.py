"""GET /v1/usage: each caller sees its own use, and cancelled answers count what was generated."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from serve_app.ingress.usage.response import CallerUsage
from tests.fakes import PROMPT_TOKENS, FakeAnswer, FakeMeter
from tests.ingress.client import MakeClient, chat, soon
from tests.ingress.test_limit_check import key

URL = "/v1/chat/completions"
DAY = "2023-11-14"  # of the clock of make_app


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def usage(client: httpx.AsyncClient, **more: Any) -> list[dict[str, Any]]:
    await asyncio.sleep(0.01)
    reply = (await client.get("/v1/usage", **more)).json()
    TypeAdapter(CallerUsage).validate_python(reply, strict=True)
    days: list[dict[str, Any]] = reply["days"]
    return days


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_sees_its_own_use_by_day(make_client: MakeClient, file: Path, stream: bool) -> None:
    meter = FakeMeter()
    client = make_client(FakeAnswer("Two ", "cats", device_ms=12.5), meter=meter, access={"keys_file": str(file)})
    shop, bank = key(file), key(file, "bank")
    assert await usage(client, headers=shop) == []
    for _ in range(2):
        await client.post(URL, json=chat(stream=stream), headers=shop)
    assert await usage(client, headers=bank) == []
    tokens = {"prompt_tokens": 2 * PROMPT_TOKENS, "completion_tokens": 4}
    assert await usage(client, headers=shop) == [
        {"day": DAY, "requests": 2, **tokens, "pictures": 0, "device_ms": 25.0}
    ]
    assert meter.counts["glm_caller_tokens_total", "other"] == sum(tokens.values())
    assert meter.counts["glm_caller_device_seconds_total", "other"] == pytest.approx(0.025)


async def test_choices_share_their_prompt_and_add_up_their_device_time(make_client: MakeClient) -> None:
    client = make_client(FakeAnswer("Two ", "cats", device_ms=10.0))
    await client.post(URL, json=chat(n=3))
    (day,) = await usage(client)
    assert (day["prompt_tokens"], day["completion_tokens"], day["device_ms"]) == (PROMPT_TOKENS, 6, 30.0)


async def test_a_refused_request_is_no_use(make_client: MakeClient) -> None:
    client = make_client()
    assert (await client.post(URL, json={"messages": 1})).status_code == 400
    assert await usage(client) == []


async def test_an_answer_whose_client_left_counts_what_was_generated(serving: Any) -> None:
    answer = FakeAnswer("a", "b", "c", hold_after=3)
    async with httpx.AsyncClient(base_url=await serving(answer)) as client:
        async with client.stream("POST", URL, json=chat(stream=True)):
            await answer.held.wait()
        await soon(lambda: answer.running == 0)
        for _ in range(500):  # it is recorded a moment after the answer has ended
            if days := await usage(client):
                break
            await asyncio.sleep(0.01)
        (day,) = days
    assert (day["requests"], day["prompt_tokens"], day["completion_tokens"]) == (1, PROMPT_TOKENS, 2)
