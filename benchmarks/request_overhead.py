"""What do identity, limits, a miss of the answer cache and the audit log add to a request together?

Method: two services (`glm-serve up`, demo model) run at the same time, one with all of them off, one with all of them
on: a key with four limits, the answer cache, the audit log in required mode. Each turn asks one of them, then the
other, in changing order; the one that is not asked is idle. Every question is new and has one token of answer, so the
part of the model is as small as it can be. Differences are paired: those of the medians of one turn. Reported is their
median over all turns, and that of the ratios of requests a second. On a machine that also does other work, turns differ
by much more than what is measured; the CPU time of the ingress per request, which does all of this, does not.

    python -m benchmarks.request_overhead                  # limits and cache in the process
    python -m benchmarks.request_overhead --redis          # in a `redis-server` on this machine

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from benchmarks.endpoint import CHAT
from benchmarks.peers import server as peers
from benchmarks.redis_server import redis_server
from benchmarks.report import header, save
from benchmarks.serve_load import DEMO
from serve_app.access.key_file import LimitEntry, add_key, new_key

UNLIMITED = LimitEntry(
    requests_per_second=1e6, concurrent_requests=1000, tokens_per_minute=10**9, pictures_per_minute=10**9
)
WARM_UP_S = 2.0
_numbers = itertools.count()


def settings_on(folder: Path, redis_url: str) -> tuple[dict[str, str], str]:
    """The settings of the service with everything on, and a key."""
    key, entry = new_key("shop", limits=UNLIMITED)
    add_key(folder / "keys.json", entry)
    settings = {
        "GLM_ACCESS__KEYS_FILE": str(folder / "keys.json"),
        "GLM_CACHE__BACKEND": "redis" if redis_url else "memory",
        "GLM_AUDIT__MODE": "required",
        "GLM_AUDIT__FOLDER": str(folder / "audit"),
    }
    if redis_url:
        settings |= {"GLM_CACHE__REDIS_URL": redis_url, "GLM_LIMITS__REDIS_URL": redis_url}
    return settings, key


async def ask(client: httpx.AsyncClient, seconds: float, callers: int) -> tuple[float, float, int]:
    """(median of the latency in ms, requests/s, requests) of a closed loop."""
    latencies_ms: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            question = f"Question {next(_numbers)}: which number is on the label?"
            body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 1}
            (await client.post(CHAT, json=body)).raise_for_status()
            latencies_ms.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return statistics.median(latencies_ms), len(latencies_ms) / (time.perf_counter() - began), len(latencies_ms)


async def compare(off: str, on: str, key: str, turns: int, seconds: float, callers: int) -> dict[str, float]:
    """Medians of the turns' differences and ratios with so many callers."""
    extra_ms, ratios, off_ms, off_per_s = [], [], [], []
    cpu_before_s, answered = [ingress_cpu_s(base) for base in (off, on)], Counter[httpx.AsyncClient]()
    async with (
        httpx.AsyncClient(base_url=off, timeout=60) as without,
        httpx.AsyncClient(base_url=on, timeout=60, headers={"Authorization": f"Bearer {key}"}) as with_all,
    ):
        for turn in range(turns):
            pair = {}
            for client in (without, with_all) if turn % 2 else (with_all, without):
                pair[client] = await ask(client, seconds, callers)
                answered[client] += pair[client][2]
            extra_ms.append(pair[with_all][0] - pair[without][0])
            ratios.append(pair[with_all][1] / pair[without][1])
            off_ms.append(pair[without][0])
            off_per_s.append(pair[without][1])
    cpu_ms = [
        (ingress_cpu_s(base) - before_s) * 1000 / answered[client]
        for base, before_s, client in zip((off, on), cpu_before_s, (without, with_all), strict=True)
    ]
    return {
        "off_ms_p50": round(statistics.median(off_ms), 2),
        "added_ms_p50": round(statistics.median(extra_ms), 2),
        "added_ms_lowest": round(min(extra_ms), 2),
        "added_ms_highest": round(max(extra_ms), 2),
        "off_requests_per_s": round(statistics.median(off_per_s), 1),
        "requests_per_s_ratio": round(statistics.median(ratios), 4),
        "off_ingress_cpu_ms": round(cpu_ms[0], 2),  # of one request
        "added_ingress_cpu_ms": round(cpu_ms[1] - cpu_ms[0], 2),
    }


def ingress_cpu_s(base: str) -> float:
    """CPU seconds that the process that listens on this address has used."""
    port = httpx.URL(base).port
    listening = (each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
    ticks = (psutil.Process(each.pid).cpu_times() for each in listening if each.laddr.port == port and each.pid)
    return max((used.user + used.system for used in ticks), default=0.0)


def services(stack: ExitStack, port: int, redis: bool) -> Iterator[str]:
    """The addresses of the service without and with everything, then the key."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    url = stack.enter_context(redis_server(port + 9)) if redis else ""
    settings, key = settings_on(folder, url)
    for number, more in enumerate(({"GLM_CACHE__BACKEND": "off"}, settings)):
        server = peers.ours(DEMO, port + 10 * number, more)
        yield stack.enter_context(peers.running(server, port + 10 * number))[0]
    yield key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", action="store_true", help="limits and answer cache in Redis")
    parser.add_argument("--turns", type=int, default=16, help="of both services (default: 16)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one service in one turn (default: 2)")
    parser.add_argument("--port", type=int, default=18280)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    report = header("request_overhead", ["ray", "redis", "limits"]) | {"redis": options.redis, "turns": options.turns}
    with ExitStack() as stack:
        off, on, key = services(stack, options.port, options.redis)
        for callers in (1, 4):
            asyncio.run(compare(off, on, key, 1, WARM_UP_S, callers))
            report[f"callers_{callers}"] = asyncio.run(compare(off, on, key, options.turns, options.seconds, callers))
            print(callers, report[f"callers_{callers}"], flush=True)
    if options.save:
        save(report, "-redis" if options.redis else "")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
