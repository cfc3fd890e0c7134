"""Client of an OpenAI-compatible endpoint: command-line options, requests, answers with their times."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

CHAT = "/v1/chat/completions"
NOT_FROM_CACHE = {"Cache-Control": "no-store"}  # a benchmark measures the model, also where it repeats a question


class EndpointError(Exception):
    """The endpoint does not answer or refuses a request; the message says what to do."""


@dataclass(frozen=True)
class StreamedAnswer:
    """One streamed answer as the client received it; times count from the moment the request was sent."""

    text: str
    first_token_s: float  # the first piece of text; the end of the stream if there was none
    latency_s: float
    prompt_tokens: int = 0  # 0 unless the request asked for usage
    completion_tokens: int = 0
    gaps_s: tuple[float, ...] = ()  # between pieces of text, in their order
    timings: dict[str, float] = field(default_factory=dict)  # of this service: milliseconds by stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that name the endpoint and set the load."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="root of the endpoint, without /v1")
    parser.add_argument("--concurrency", type=int, default=2, help="requests in flight at once (default: 2)")
    parser.add_argument("--model", default="", help="model that requests name (default: the endpoint's first)")
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one answer (default: 120)")
    parser.add_argument("--show-wrong", action="store_true", help="print every wrong answer")


def open_client(options: argparse.Namespace) -> httpx.AsyncClient:
    """A client for the endpoint that the options of `add_arguments` name."""
    url = options.url.rstrip("/").removesuffix("/v1")
    headers = dict(NOT_FROM_CACHE)
    if options.api_key:
        headers["Authorization"] = f"Bearer {options.api_key}"
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=httpx.Timeout(options.timeout, connect=5.0))


async def served_model(client: httpx.AsyncClient) -> str:
    """The id of the first model that the endpoint lists; raises `EndpointError`."""
    try:
        response = await client.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        raise EndpointError(
            f"{client.base_url} returned no list of models ({error or type(error).__name__}). "
            "Check that the service is running and that --url is its root."
        ) from error


async def complete(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The message of a non-streaming chat completion, and the seconds it took; raises `EndpointError`."""
    started = time.perf_counter()
    try:
        response = await client.post(CHAT, json=body)
        response.raise_for_status()
    except httpx.HTTPStatusError as error:
        raise EndpointError(f"The endpoint refused a request: {error.response.text[:300]}") from error
    except httpx.HTTPError as error:
        raise EndpointError(f"The connection to the endpoint failed ({error or type(error).__name__}).") from error
    return response.json()["choices"][0]["message"], time.perf_counter() - started


async def complete_all(
    client: httpx.AsyncClient, bodies: list[dict[str, Any]], concurrency: int
) -> list[tuple[dict[str, Any], float]]:
    """`complete` for all bodies, at most `concurrency` at once, in their order; the first error ends all."""
    limit = asyncio.Semaphore(concurrency)
    done = 0

    async def one(body: dict[str, Any]) -> tuple[dict[str, Any], float]:
        nonlocal done
        async with limit:
            answer = await complete(client, body)
        done += 1
        if sys.stderr.isatty() or done % 50 == 0:
            print(f"\r{done}/{len(bodies)}", end="", file=sys.stderr, flush=True)
        return answer

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(body)) for body in bodies]
    except* EndpointError as errors:
        raise errors.exceptions[0] from None
    print(file=sys.stderr)
    return [task.result() for task in tasks]


async def stream(
    client: httpx.AsyncClient, body: dict[str, Any], on_first_text: Callable[[], None] = lambda: None
) -> StreamedAnswer:
    """One streamed chat completion; raises `EndpointError`, also for an error inside the stream."""
    started = time.perf_counter()
    text, usage, timings = "", dict[str, int](), dict[str, float]()
    arrivals: list[float] = []  # of pieces of text
    try:
        async with client.stream("POST", CHAT, json=body) as response:
            if response.status_code != 200:
                raise EndpointError(f"The endpoint returned {response.status_code}: {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise EndpointError(f"The stream ended with an error: {event['error']}")
                usage = event.get("usage") or usage
                timings = event.get("timings") or timings
                if event.get("choices") and (piece := event["choices"][0].get("delta", {}).get("content")):
                    arrivals.append(time.perf_counter())
                    text += piece
                    if len(arrivals) == 1:
                        on_first_text()
    except httpx.HTTPError as error:
        raise EndpointError(f"The connection to the endpoint failed ({error!r}).") from error
    ended = time.perf_counter()
    return StreamedAnswer(
        text,
        (arrivals[0] if arrivals else ended) - started,
        ended - started,
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        tuple(later - earlier for earlier, later in pairwise(arrivals)),
        timings,
    )


async def closed_loop(
    client: httpx.AsyncClient, bodies: list[dict[str, Any]], callers: int
) -> tuple[list[StreamedAnswer | EndpointError], float]:
    """Stream all bodies: each of `callers` sends its next request after its last answer.

    Returns the results in the order of the bodies, and the wall time in seconds.
    """
    waiting, results = iter(enumerate(bodies)), dict[int, StreamedAnswer | EndpointError]()

    async def caller() -> None:
        for index, body in waiting:
            try:
                results[index] = await stream(client, body)
            except EndpointError as error:
                results[index] = error

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return [results[index] for index in range(len(bodies))], time.perf_counter() - started
