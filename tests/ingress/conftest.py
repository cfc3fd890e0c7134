"""The app in this process for most tests, and on a real port where timing matters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest

from tests.app_server import serve_app_on_free_port
from tests.ingress.client import Connect, MakeClient, make_app


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """Makes a client of the app over an answer; an exception that the app raises fails the test."""
    clients: list[httpx.AsyncClient] = []

    def make(*given: Any, **more: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(make_app(*given, **more))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def serving() -> AsyncIterator[Callable[..., Any]]:
    """The app on a real uvicorn and a free port, in this event loop; returns its URL."""
    async with AsyncExitStack() as running:

        async def serve(*given: Any, http: str = "auto", **more: Any) -> str:
            return await running.enter_async_context(serve_app_on_free_port(make_app(*given, **more), http))

        yield serve


@pytest.fixture
async def connect(serving: Callable[..., Any]) -> AsyncIterator[Connect]:
    """OpenAI's own client, unchanged, on a real port."""
    clients: list[openai.AsyncOpenAI] = []

    async def connect(answer: Any, *, max_retries: int = 0) -> openai.AsyncOpenAI:
        url = await serving(answer)
        clients.append(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=max_retries))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()
