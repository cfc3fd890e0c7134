"""What does a running service carry? Closed loops of callers who ask about pictures, each picture a new one.

Every caller asks again as soon as its answer is whole. Answers have a fixed length (`ignore_eos`), so that the
work is the same for any weights; no cache helps, since no picture is asked about twice. The figures are the base
of capacity planning (`tests/plan/test_measured.py`): first token and whole answer as a caller sees them, over HTTP.

    python -m benchmarks.capacity --url http://127.0.0.1:8000 --callers 1 8 32 64 --picture 1120x1120

The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.preprocess import photograph

TIMEOUT_S = 300


@dataclass
class Load:
    """What the callers of one round saw."""

    first_token_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failures: list[str] = field(default_factory=list)

    def summary(self, callers: int, wall_s: float) -> dict[str, Any]:
        answered = len(self.whole_s)
        return {
            "callers": callers,
            "requests": answered,
            "failures": len(self.failures),
            "requests_per_s": round(answered / wall_s, 2),
            "first_token_s": _quantiles(self.first_token_s),
            "whole_s": _quantiles(self.whole_s),
            "prompt_tokens": round(self.prompt_tokens / answered) if answered else 0,
            "answer_tokens_per_s": round(self.answer_tokens / wall_s, 1),
        }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {"p50": round(statistics.median(ordered), 4), "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 4)}


def question(model: str, size: tuple[int, int], text: str, answer_tokens: int, seed: int) -> dict[str, Any]:
    picture = base64.b64encode(photograph(*size, seed=seed)).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}},
        {"type": "text", "text": text},
    ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any], load: Load) -> None:
    """One answer, streamed; a failure is kept with its reason."""
    started = time.perf_counter()
    first: float | None = None
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                load.failures.append(f"{response.status_code} {(await response.aread())[:200]!r}")
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    load.failures.append(str(event["error"]))
                    return
                if first is None and event["choices"] and event["choices"][0]["delta"].get("content"):
                    first = time.perf_counter() - started
                if usage := event.get("usage"):
                    load.prompt_tokens += usage["prompt_tokens"]
                    load.answer_tokens += usage["completion_tokens"]
    except httpx.HTTPError as error:
        load.failures.append(repr(error))
        return
    load.whole_s.append(time.perf_counter() - started)
    load.first_token_s.append(first if first is not None else load.whole_s[-1])


async def closed_loop(client: httpx.AsyncClient, bodies: list[dict[str, Any]], callers: int) -> dict[str, Any]:
    """`callers` at once until all bodies are answered."""
    load, waiting = Load(), iter(bodies)

    async def caller() -> None:
        for body in waiting:
            await ask(client, body, load)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    result = load.summary(callers, time.perf_counter() - started)
    for reason in load.failures[:3]:
        print(f"failed: {reason}", file=sys.stderr)
    return result


async def run(options: argparse.Namespace) -> dict[str, Any]:
    width, _, height = options.picture.partition("x")
    size = (int(width), int(height))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=options.url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
        served = (await client.get("/v1/models")).raise_for_status().json()["data"][0]
        seed, rounds = 0, []
        for callers in options.callers:
            count = max(options.least, callers * options.each)
            text = ("What is written on this label, and who is it for? " * 50)[: options.text_characters]
            bodies = []
            for _ in range(count + callers):
                bodies.append(question(served["id"], size, text, options.answer_tokens, seed))
                seed += 1
            await closed_loop(client, bodies[count:], callers)  # warm: connections, this batch size
            rounds.append(await closed_loop(client, bodies[:count], callers))
            print(json.dumps(rounds[-1]), file=sys.stderr)
    kept = ("id", "parameters", "quantization", "dtype", "device")
    return {
        "served": {key: served[key] for key in kept},
        "picture": options.picture,
        "text_characters": options.text_characters,
        "answer_tokens": options.answer_tokens,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--each", type=int, default=4, help="questions of one caller (default: 4)")
    parser.add_argument("--least", type=int, default=16, help="fewest questions of a round (default: 16)")
    parser.add_argument("--picture", default="1120x1120", help="pixels of the pictures (default: 1120x1120)")
    parser.add_argument("--text-characters", type=int, default=190, help="length of the question (default: 190)")
    parser.add_argument("--answer-tokens", type=int, default=128, help="length of an answer (default: 128)")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
