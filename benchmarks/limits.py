"""How exact are limits over Redis with two ingress replicas, and does a caller above its limit slow another one down?

Method: two services (`glm-serve up`, demo model) share a `redis-server` and a file of keys, as two ingress replicas do.

* Exact: a caller with a limit of requests per second sends three times as many, half to each replica, at a fixed rate.
  What is accepted within full seconds, after the first two, is divided by what the limit allows. A caller with a limit
  of tokens per minute asks until it is refused; what its answers used is divided by its limit.
* Fair: one caller asks one question after the other. In turns, another one sends at its limit, then ten times as much,
  to the same service. Reported are the first one's 95th percentiles, and the median of the ratios of the turns.

    python -m benchmarks.limits

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.endpoint import CHAT, NOT_FROM_CACHE
from benchmarks.peers import server as peers
from benchmarks.redis_server import redis_server
from benchmarks.report import header, percentile, save
from benchmarks.serve_load import DEMO
from serve_app.access.key_file import LimitEntry, add_key, new_key

RATE = 50  # requests a second of the exact limit
TOKENS = 3000  # a minute
LOUD_RATE = 2  # requests a second of the loud caller's limit
SKIPPED_S = 2


def question(max_tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": max_tokens}


def headers(file: Path, caller: str, **limits: int) -> dict[str, str]:
    """The headers of a new caller with these limits."""
    key, entry = new_key(caller, limits=LimitEntry(**limits))
    add_key(file, entry)
    return {"Authorization": f"Bearer {key}", **NOT_FROM_CACHE}


async def requests_per_second(bases: list[str], caller: dict[str, str], seconds: int) -> dict[str, Any]:
    """Accepted requests, as a share of those that the limit allows."""
    accepted_at: list[float] = []
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(headers=caller, timeout=30) as client:

        async def one(base: str) -> None:
            response = await client.post(f"{base}/tokenize", json={"prompt": "Hi"})
            statuses[response.status_code] += 1
            if response.status_code == 200:
                accepted_at.append(time.perf_counter())

        began, tasks = time.perf_counter(), []
        for number in range(3 * RATE * seconds):
            await asyncio.sleep(max(0.0, began + number / (3 * RATE) - time.perf_counter()))
            tasks.append(asyncio.create_task(one(bases[number % len(bases)])))
        await asyncio.gather(*tasks)
    counted = sum(SKIPPED_S <= at - began < seconds for at in accepted_at)
    allowed = RATE * (seconds - SKIPPED_S)
    return {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "accepted": counted,
        "allowed": allowed,
        "ratio": round(counted / allowed, 4),
    }


async def tokens_per_minute(bases: list[str], caller: dict[str, str]) -> dict[str, Any]:
    """Tokens used until the first refusal of each replica, as a share of the limit."""
    used = [0, 0]

    async def ask(index: int) -> None:
        async with httpx.AsyncClient(base_url=bases[index], headers=caller, timeout=60) as client:
            while (response := await client.post(CHAT, json=question(8))).status_code == 200:
                used[index] += response.json()["usage"]["total_tokens"]
            assert response.status_code == 429, response.text

    await asyncio.gather(ask(0), ask(1))
    return {"used": sum(used), "limit": TOKENS, "ratio": round(sum(used) / TOKENS, 4)}


async def fairness(
    base: str, quiet: dict[str, str], loud: dict[str, str], turns: int, seconds: float
) -> dict[str, float]:
    """The quiet caller's latencies while the loud one is at its limit and at ten times of it."""
    found: dict[int, list[float]] = {1: [], 10: []}
    ratios = []
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:

        async def send(times: int) -> None:
            began, sent = time.perf_counter(), set()
            for number in range(round(times * LOUD_RATE * seconds)):
                await asyncio.sleep(max(0.0, began + number / (times * LOUD_RATE) - time.perf_counter()))
                sent.add(asyncio.create_task(client.post(CHAT, json=question(8), headers=loud)))
            await asyncio.gather(*sent)

        for _ in range(turns):
            turn = {}
            for times in (1, 10):
                sending = asyncio.create_task(send(times))
                latencies_ms, ends = [], time.perf_counter() + seconds
                while time.perf_counter() < ends:
                    began = time.perf_counter()
                    (await client.post(CHAT, json=question(8), headers=quiet)).raise_for_status()
                    latencies_ms.append((time.perf_counter() - began) * 1000)
                await sending
                found[times] += latencies_ms
                turn[times] = percentile(latencies_ms, 95)
            ratios.append(turn[10] / turn[1])
    return {
        **{f"p50_ms_at_{times}": round(percentile(found[times], 50), 1) for times in found},
        **{f"p95_ms_at_{times}": round(percentile(found[times], 95), 1) for times in found},
        "p95_ratio_of_turns": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=12, help="of the requests per second (default: 12)")
    parser.add_argument("--turns", type=int, default=5, help="of the two loads (default: 5)")
    parser.add_argument("--port", type=int, default=18380)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    report = header("limits", ["ray", "redis", "limits"])
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.json"
        exact, talker = (
            headers(file, "exact", requests_per_second=RATE),
            headers(file, "talker", tokens_per_minute=TOKENS),
        )
        loud, quiet = headers(file, "loud", requests_per_second=LOUD_RATE), headers(file, "quiet")
        url = stack.enter_context(redis_server(options.port + 9))
        settings = {"GLM_ACCESS__KEYS_FILE": str(file), "GLM_LIMITS__REDIS_URL": url}
        bases = []
        for port in (options.port, options.port + 10):
            bases.append(stack.enter_context(peers.running(peers.ours(DEMO, port, settings), port))[0])
        report["requests_per_second"] = asyncio.run(requests_per_second(bases, exact, options.seconds))
        print(report["requests_per_second"], flush=True)
        report["tokens_per_minute"] = asyncio.run(tokens_per_minute(bases, talker))
        print(report["tokens_per_minute"], flush=True)
        report["fairness"] = asyncio.run(fairness(bases[0], quiet, loud, options.turns, 10.0))
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
