"""The size of a body is limited while it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, picture, text

URL = "/v1/chat/completions"
LIMIT = {"max_body_bytes": 2 * 2**20}
TOO_LARGE = {
    "message": "The body is larger than 2 MiB, the limit of this service. Send fewer or smaller pictures.",
    "type": "invalid_request_error",
    "param": None,
    "code": "request_too_large",
}


async def pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 1024):
        yield b"x" * 1024


async def test_a_declared_length_over_the_limit_is_refused(make_client: MakeClient) -> None:
    response = await make_client(settings=LIMIT).post(URL, content=b"x" * (2 * 2**20 + 1))
    assert (response.status_code, response.json()["error"]) == (413, TOO_LARGE)


async def test_a_body_without_a_length_is_refused_at_the_limit(make_client: MakeClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1024
            yield b"x" * 1024

    response = await make_client(settings=LIMIT).post(URL, content=endless())
    assert (response.status_code, response.json()["error"]) == (413, TOO_LARGE)
    assert sent <= 2 * 2**20 + 2048


async def test_an_upload_is_limited_the_same_way(make_client: MakeClient) -> None:
    client = make_client(settings=LIMIT)
    response = await client.post("/v1/ask", data={"question": "?"}, files={"image": b"x" * 2**21})
    assert (response.status_code, response.json()["error"]) == (413, TOO_LARGE)


async def test_a_body_of_exactly_the_limit_is_read(make_client: MakeClient) -> None:
    response = await make_client(settings=LIMIT).post(URL, content=b"x" * (2 * 2**20))
    assert response.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_real_connection_gets_to_read_the_refusal(
    serving: Callable[..., Any], http: str, declared: bool
) -> None:
    """The refusal goes out while the body still comes in; the caller must see it, not a broken pipe."""
    url = await serving(settings=LIMIT, http=http)
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            content = b"x" * (8 * 2**20) if declared else pieces(8 * 2**20)
            response = await client.post(url + URL, content=content)
            assert (response.status_code, response.json()["error"]) == (413, TOO_LARGE)
        assert (await client.post(url + URL, json=chat())).status_code == 200


async def test_ten_megabytes_of_picture_cost_the_event_loop_little(make_client: MakeClient) -> None:
    """Parsing, checking and converting 14 MB takes some 10 ms; decoding base64 alone would take more."""
    answer = FakeAnswer("x")
    client = make_client(answer)
    url = "data:image/jpeg;base64," + "A" * 14_000_000
    request = client.build_request("POST", URL, json=chat([picture(url), text("?")]))
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        response = await client.send(request)
        best = min(best, time.perf_counter() - begin)
        assert response.status_code == 200
        await asyncio.sleep(0)
    assert answer.requests[0].messages[0].parts[0].source == url  # type: ignore[union-attr]
    assert best < 0.25


@pytest.mark.parametrize("path", [URL, "/v1/ask", "/v1/messages", "/v1/responses", "/tokenize"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "Deflate"])
async def test_a_compressed_body_is_refused_by_its_encoding(make_client: MakeClient, path: str, encoding: str) -> None:
    """It was called "not JSON: expected value at line 1 column 1"."""
    headers = {"Content-Encoding": encoding, "Content-Type": "multipart/form-data; boundary=b"}
    response = await make_client().post(path, content=b"\x1f\x8b\x08", headers=headers)
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "identity")
    message = f"The body has the Content-Encoding '{encoding.lower()}'; send it without compression."
    assert response.json()["error"]["message"] == message


@pytest.mark.parametrize("encoding", ["identity", "utf-8", "none", "8bit"])
async def test_an_encoding_that_is_no_compression_is_ignored(make_client: MakeClient, encoding: str) -> None:
    response = await make_client(FakeAnswer("x")).post(URL, json=chat(), headers={"Content-Encoding": encoding})
    assert response.status_code == 200
