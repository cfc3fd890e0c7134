"""Does the service stay up under many times the load it carries: are answers complete, refusals fast, memory returned?

Method: first a closed loop of picture questions measures the most that the service completes. Then requests are sent
at a fixed rate whatever happens (open loop), each on a connection of its own. Refusals are 503 with Retry-After. Health
is asked five times a second throughout. Memory is that of the service's processes without the shared object store,
before, at the most, and a minute after the load. The caches of answers, image features and decoded pictures are off:
they grow, and the second request with a picture would cost less than the first.

    python -m benchmarks.overload                      # starts the service; 200 requests/s for 60 s
    python -m benchmarks.overload --rate 100 --seconds 20

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from benchmarks.endpoint import CHAT, NOT_FROM_CACHE, EndpointError, closed_loop
from benchmarks.evaluation_set import chat_request, one_question_per_picture
from benchmarks.peers import server as peers
from benchmarks.report import header, percentile, save
from benchmarks.serve_load import DEMO

SERVICE_TIMEOUT_S = 300.0
MEASURED = 80  # requests of the closed loop that finds the most that the service completes
CALLERS = 16


@dataclass
class Load:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    completed_at: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    without_retry_after: int = 0


async def request(host: str, port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and response of one request on a connection of its own; status 0 if the connection fails."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            response = await asyncio.wait_for(reader.read(), SERVICE_TIMEOUT_S)
        finally:
            writer.close()
        return int(response.split(b" ", 2)[1]), response
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0, b""


async def overload(host: str, port: int, bodies: list[bytes], rate: float, seconds: float) -> Load:
    load = Load()

    async def one(body: bytes) -> None:
        started = time.monotonic()
        status, response = await request(host, port, "POST", CHAT, body)
        load.statuses[status] += 1
        if status == 200:
            load.completed_at.append(time.monotonic())
        elif status == 503:
            load.refused_ms.append((time.monotonic() - started) * 1e3)
            load.without_retry_after += b"retry-after" not in response.lower()

    async def health() -> None:
        while True:
            started = time.monotonic()
            status, _ = await request(host, port, "GET", "/healthz", b"")
            load.health_ms.append((time.monotonic() - started) * 1e3 if status == 200 else float("inf"))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(health())
    tasks = []
    began = time.monotonic()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(one(bodies[number % len(bodies)])))
    await asyncio.gather(*tasks)
    watching.cancel()
    return load


def memory_mib() -> dict[str, int]:
    """Private memory of the replicas, by deployment; they descend from this process."""
    found: dict[str, int] = {}
    for each in psutil.Process(os.getpid()).children(recursive=True):
        command = " ".join(each.cmdline())
        for name in ("ingress", "preprocess", "engine"):
            if f"glm:{name}" in command or f"glm#{name}#" in command:
                found[name] = found.get(name, 0) + each.memory_full_info().uss // 2**20
    return found


async def highest(most: dict[str, int]) -> None:
    while True:
        for name, size in (await asyncio.to_thread(memory_mib)).items():
            most[name] = max(most.get(name, 0), size)
        await asyncio.sleep(2)


def summary(load: Load, began: float, seconds: float, most_per_s: float) -> dict[str, Any]:
    during = sum(at - began <= seconds for at in load.completed_at)
    refused = sorted(load.refused_ms)
    return {
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "most_per_s": round(most_per_s, 2),
        "completed_per_s": round(during / seconds, 2),
        "goodput_ratio": round(during / seconds / most_per_s, 3),
        "refused_ms_p50": round(percentile(refused, 50), 1) if refused else None,
        "refused_ms_p99": round(percentile(refused, 99), 1) if refused else None,
        "refused_without_retry_after": load.without_retry_after,
        "health_ms_p50": round(percentile(load.health_ms, 50), 1),
        "health_ms_max": round(max(load.health_ms), 1),
    }


async def measure(base: str, rate: float, seconds: float) -> dict[str, Any]:
    url = httpx.URL(base)
    bodies = [chat_request(each.picture, each.question, "glm", 24) for each in one_question_per_picture()]
    async with httpx.AsyncClient(base_url=base, timeout=SERVICE_TIMEOUT_S, headers=NOT_FROM_CACHE) as client:
        await closed_loop(client, bodies[:CALLERS], CALLERS)  # warm-up
        answers, wall_s = await closed_loop(client, bodies[CALLERS : CALLERS + MEASURED], CALLERS)
    assert not any(isinstance(answer, EndpointError) for answer in answers)
    before = memory_mib()
    most = dict(before)
    watching = asyncio.create_task(highest(most))
    began = time.monotonic()
    encoded = [json.dumps({**body, "stream": False}).encode() for body in bodies[CALLERS + MEASURED :]]
    load = await overload(url.host, url.port or 80, encoded, rate, seconds)
    watching.cancel()
    await asyncio.sleep(60)
    memory = {"before": before, "most": most, "a_minute_after": memory_mib()}
    return {**summary(load, began, seconds, len(answers) / wall_s), "memory_mib": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (default: 200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the load (default: 60)")
    parser.add_argument("--port", type=int, default=8790, help="port of the service that is started (default: 8790)")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results")
    options = parser.parse_args()
    settings = {
        "GLM_ENGINE__FEATURE_CACHE_MIB": "0",
        "GLM_PREPROCESS__DECODED_CACHE_MIB": "0",
        "GLM_CACHE__BACKEND": "off",
    }
    with peers.running(peers.ours(DEMO, options.port, settings), options.port) as (base, _):
        figures = asyncio.run(measure(base, options.rate, options.seconds))
    report = {**header("overload", ("ray", "torch", "uvicorn")), "rate": options.rate, "seconds": options.seconds}
    report |= figures
    if options.save:
        print(f"wrote {save(report)}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
