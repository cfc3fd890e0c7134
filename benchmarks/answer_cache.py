"""How fast is a repeated question with a picture of 1 MB, and what does the answer cache cost a new one?

Method: the real service (`glm-serve up`, demo model) with its cache in memory and in Redis (`redis-server` on this
machine); 16 questions about 4 photographs are answered once, then repeated in an open loop at a fixed rate, half as
JSON with base64 and half as `/v1/ask` uploads, on kept connections. Time is from sending to the complete response, at
the client, which shares the cores with the service. The cost of a miss is measured in one process: the cache over a
model that answers at once, minus that model alone.

    python -m benchmarks.answer_cache                       # 20 requests/s for 30 s, both backends
    python -m benchmarks.answer_cache --backends memory

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np

from benchmarks.endpoint import CHAT
from benchmarks.peers import server as peers
from benchmarks.photograph import photograph
from benchmarks.redis_server import redis_server
from benchmarks.report import header, percentile, save
from benchmarks.serve_load import DEMO
from serve_app.cache.answer_cache import AnswerCache
from serve_app.contracts import (
    ChatRequest,
    Delta,
    Event,
    Events,
    Finished,
    ImagePart,
    Message,
    Picture,
    Prompt,
    Sampling,
    Started,
    TextPart,
    Usage,
)
from serve_app.metrics import SilentMeter
from serve_app.settings_cache import CacheSettings

SIZE = (2860, 2040)  # about 1 MB
QUESTIONS = ("Which number is on the label?", "What colour is the sign?", "Is it damaged?", "Describe it briefly.")
MISSES = 300


@contextmanager
def backend(name: str, port: int) -> Iterator[dict[str, str]]:
    """The settings of the service with this backend, and a Redis if it needs one."""
    if name != "redis":
        yield {"GLM_CACHE__BACKEND": name}
        return
    with redis_server(port) as url:
        yield {"GLM_CACHE__BACKEND": name, "GLM_CACHE__REDIS_URL": url}


def requests() -> list[dict[str, Any]]:
    """Arguments of `client.request`: every question about every photograph, as JSON or as a form."""
    made: list[dict[str, Any]] = []
    for seed in range(4):
        picture = photograph(*SIZE, seed=seed)
        url = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
        for number, question in enumerate(QUESTIONS):
            if number % 2:
                form = {"question": question, "temperature": "0", "max_tokens": "16"}
                made.append({"url": "/v1/ask", "data": form, "files": {"image": picture}})
                continue
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
            body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 16}
            made.append({"url": CHAT, "json": body})
    return made


async def repeated(base: str, rate: float, seconds: float) -> dict[str, Any]:
    """Latencies of hits at this rate, after each question was answered once."""
    prepared = requests()
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=base, timeout=120, limits=limits) as client:
        sent = [client.build_request("POST", **each) for each in prepared]
        bodies = [(request.url, dict(request.headers), await request.aread()) for request in sent]

        async def ask(number: int) -> tuple[float, float, str]:
            url, headers, body = bodies[number % len(bodies)]
            began = time.perf_counter()
            response = await client.post(url, headers=headers, content=body)
            response.raise_for_status()
            latency_ms = (time.perf_counter() - began) * 1000
            timing = dict(each.split(";dur=") for each in response.headers["server-timing"].split(", "))
            return latency_ms, float(timing["total"]), response.headers["x-cache"]

        for number in range(len(bodies)):
            await ask(number)
        for number in range(2 * len(bodies)):  # connections and code paths are warm
            await ask(number)
        tasks = []
        began = time.perf_counter()
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(number)))
        results = await asyncio.gather(*tasks)
    latencies_ms = [latency_ms for latency_ms, _, _ in results]
    service_ms = [in_service_ms for _, in_service_ms, _ in results]
    states = [state for _, _, state in results]
    return {
        "requests": len(states),
        "hits": states.count("hit"),
        "body_bytes": round(statistics.mean(len(body) for _, _, body in bodies)),
        **{f"latency_ms_p{percent}": round(percentile(latencies_ms, percent), 2) for percent in (50, 95, 99)},
        "latency_ms_max": round(max(latencies_ms), 2),
        "service_ms_p50": round(percentile(service_ms, 50), 2),  # from the request's headers to the response's
    }


async def miss_cost() -> dict[str, float]:
    """Milliseconds that the cache in memory adds to a request that it does not know."""
    upload = os.urandom(1_000_000)
    picture = Picture(np.zeros((1120, 1120, 3), np.uint8), "d" * 64, 1600, SIZE)
    ids = np.arange(1700, dtype=np.int32)
    events: list[Event] = [Started(1700, 1600), Delta("One.", 2), Finished("stop", Usage(1700, 2, 1600))]
    cache = AnswerCache(CacheSettings(), "fp", SilentMeter())

    async def generate(prompt: Prompt) -> AsyncGenerator[Event, None]:
        for event in events:
            yield event

    async def took(answer: Events) -> float:
        began = time.perf_counter()
        async with aclosing(answer) as received:
            async for _ in received:
                pass
        return (time.perf_counter() - began) * 1000

    cached_ms, direct_ms = [], []
    for number in range(MISSES):
        request = ChatRequest(
            str(number), (Message("user", (ImagePart(upload), TextPart(str(number)))),), Sampling(16, 0.0)
        )
        prompt = Prompt(str(number), replace_first(ids, number), (picture,), request.sampling, 9.0)

        async def prepare(prompt: Prompt = prompt) -> Prompt:
            return prompt

        cached_ms.append(await took(cache.answer(replace(request), prepare, generate)))
        direct_ms.append(await took(generate(prompt)))
    return {
        "miss_ms_p50": round(statistics.median(cached_ms) - statistics.median(direct_ms), 3),
        "miss_ms_p95": round(percentile(cached_ms, 95) - percentile(direct_ms, 95), 3),
    }


def replace_first(ids: np.ndarray, first: int) -> np.ndarray:
    changed = ids.copy()
    changed[0] = first
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["memory", "redis"], choices=["memory", "redis"])
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (default: 20)")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=18180)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    report = header("answer_cache", ["ray", "redis", "httpx"]) | {"rate": options.rate}
    for number, name in enumerate(options.backends):
        port = options.port + 10 * number
        with (
            backend(name, options.port + 9) as settings,
            peers.running(peers.ours(DEMO, port, settings), port) as (base, _),
        ):
            report[name] = asyncio.run(repeated(base, options.rate, options.seconds))
            print(name, report[name])
    report |= asyncio.run(miss_cost())
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
