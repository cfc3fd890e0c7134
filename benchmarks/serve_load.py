"""How many questions a second, and how soon: ours beside `transformers serve` and plain `generate()`.

Method: the same demo weights (float32), the same pictures and questions, the same machine, one server
at a time, in rounds; closed loop at each concurrency, streamed answers, greedy. Every picture is asked
once per server start, so no cache helps. First token = first piece of text at the client; answers are compared between
servers as a check that all did the same work.

    python -m benchmarks.serve_load                         # all three, concurrency 1, 4, 16
    python -m benchmarks.serve_load --servers ours --requests 64

The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
EVALUATION = ROOT / "benchmarks" / "evaluation"
DEMO = ROOT / "serve_app" / "demo" / "model"
# server -> where it says that it is ready, and its name for the model
SERVERS = {
    "ours": ("/readyz", "glm-vision-demo"),
    "transformers_serve": ("/health", str(DEMO)),
    "plain_generate": ("/v1/models", str(DEMO)),
}
START_LIMIT_S = 180


@dataclass
class Tally:
    """What the requests of one server at one concurrency gave."""

    wall_s: float = 0.0
    first_token_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        return {
            "requests_per_s": round(len(self.whole_ms) / self.wall_s, 2),
            "first_token_ms_p50": round(_quantile(self.first_token_ms, 50), 1),
            "first_token_ms_p95": round(_quantile(self.first_token_ms, 95), 1),
            "whole_ms_p50": round(_quantile(self.whole_ms, 50), 1),
            "whole_ms_p95": round(_quantile(self.whole_ms, 95), 1),
        }


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def questions() -> list[dict[str, Any]]:
    """The evaluation set's first question of every picture, jobs in turn."""
    lines = (EVALUATION / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        question = json.loads(line)
        first.setdefault(question["picture"], question)
    by_job: dict[str, list[dict[str, Any]]] = {}
    for question in first.values():
        by_job.setdefault(question["job"], []).append(question)
    return [question for row in zip(*by_job.values(), strict=False) for question in row]


def body(question: dict[str, Any], model: str, max_tokens: int) -> dict[str, Any]:
    picture = EVALUATION / question["picture"]
    url = f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question["question"]}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }


@contextmanager
def running(server: str, port: int) -> Iterator[str]:
    """The base URL of a started server; everything it started is gone afterwards."""
    if server == "ours":
        command = [sys.executable, "-m", "serve_app", "up", "--port", str(port)]
    else:
        command = [sys.executable, "-m", f"benchmarks.peers.{server}", str(DEMO), str(port)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "GLM_METRICS__PORT": str(port + 1)},
    )
    try:
        base = f"http://127.0.0.1:{port}"
        probe, _ = SERVERS[server]
        limit = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit and process.poll() is None:
            try:
                if httpx.get(base + probe, timeout=10).is_success:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        else:
            raise SystemExit(f"{server} did not start; run {' '.join(command)} to see why")
        yield base
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


async def ask(client: httpx.AsyncClient, request: dict[str, Any], tally: Tally, name: str) -> None:
    started = time.perf_counter()
    text, first = "", None
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line.endswith("[DONE]"):
                continue
            choices = json.loads(line[6:]).get("choices") or [{}]
            piece = choices[0].get("delta", {}).get("content")
            if piece:
                first = first or time.perf_counter()
                text += piece
    tally.first_token_ms.append(((first or time.perf_counter()) - started) * 1e3)
    tally.whole_ms.append((time.perf_counter() - started) * 1e3)
    tally.answers[name] = text.strip()


async def load(
    base: str, model: str, batch: list[dict[str, Any]], concurrency: int, max_tokens: int, tally: Tally
) -> None:
    """Ask all questions, at most `concurrency` at once."""
    async with httpx.AsyncClient(base_url=base, timeout=600, limits=httpx.Limits(max_connections=64)) as client:
        waiting = iter([(question, body(question, model, max_tokens)) for question in batch])

        async def worker() -> None:
            for question, request in waiting:
                await ask(client, request, tally, question["picture"])

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        tally.wall_s += time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=24, help="per concurrency and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--port", type=int, default=18080)
    arguments = parser.parse_args()

    pool = questions()
    needed = arguments.requests * len(arguments.concurrency) + 3
    if len(pool) < needed:
        raise SystemExit(f"{needed} pictures are needed, the evaluation set has {len(pool)}; lower --requests")
    tallies = {server: {c: Tally() for c in arguments.concurrency} for server in arguments.servers}
    for turn in range(arguments.rounds):
        for server in arguments.servers:
            _, model = SERVERS[server]
            with running(server, arguments.port) as base:
                asyncio.run(load(base, model, pool[-3:], 1, arguments.max_tokens, Tally()))  # warm-up, not counted
                for index, concurrency in enumerate(arguments.concurrency):
                    batch = pool[index * arguments.requests : (index + 1) * arguments.requests]
                    tally = tallies[server][concurrency]
                    asyncio.run(load(base, model, batch, concurrency, arguments.max_tokens, tally))
                    print(f"round {turn + 1} {server:20} c={concurrency:<3} {tally.summary()}", flush=True)

    reference = tallies[arguments.servers[0]]
    report = {
        "benchmark": "serve_load",
        "servers": {s: {str(c): t.summary() for c, t in by.items()} for s, by in tallies.items()},
        "answers_equal_to_first_server": {
            server: {str(c): _agreement(reference[c], tally) for c, tally in by.items()}
            for server, by in tallies.items()
        },
        "requests_per_point": arguments.requests * arguments.rounds,
        "max_tokens": arguments.max_tokens,
        "machine": {"cpus": os.cpu_count(), "processor": _processor(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "ray")},
    }
    print(json.dumps(report))


def _agreement(one: Tally, other: Tally) -> float:
    shared = one.answers.keys() & other.answers.keys()
    return round(sum(one.answers[name] == other.answers[name] for name in shared) / max(len(shared), 1), 3)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
