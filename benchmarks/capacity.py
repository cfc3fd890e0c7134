"""How many picture questions a second can a running service answer, at several numbers of callers?

A closed loop: every caller sends its next request after its last answer. Answers have a fixed length (`ignore_eos`),
so the work does not depend on the weights; each request has a new picture, so no cache helps. First token and total
latency are those at the HTTP client. The results are the measured points of capacity planning
(`tests/plan/test_measured.py`).

    python -m benchmarks.capacity --url http://127.0.0.1:8000 --callers 1 8 32 64 --picture 1120x1120

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import httpx

from benchmarks.endpoint import NOT_FROM_CACHE, EndpointError, StreamedAnswer, closed_loop
from benchmarks.evaluation_set import data_url
from benchmarks.photograph import photograph
from benchmarks.report import header, percentile

TIMEOUT_S = 300
QUESTION = "What is written on this label, and who is it for? "


def request(model: str, size: tuple[int, int], text: str, answer_tokens: int, seed: int) -> dict[str, Any]:
    """A streamed chat request about a new picture; `size` in pixels, width first."""
    content = [
        {"type": "image_url", "image_url": {"url": data_url(photograph(*size, seed=seed))}},
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


def summary(results: list[StreamedAnswer | EndpointError], callers: int, wall_s: float) -> dict[str, Any]:
    answers = [result for result in results if isinstance(result, StreamedAnswer)]
    return {
        "callers": callers,
        "requests": len(answers),
        "failures": len(results) - len(answers),
        "requests_per_s": round(len(answers) / wall_s, 2),
        "first_token_s": _percentiles([answer.first_token_s for answer in answers]),
        "latency_s": _percentiles([answer.latency_s for answer in answers]),
        "prompt_tokens": round(sum(answer.prompt_tokens for answer in answers) / max(1, len(answers))),
        "answer_tokens_per_s": round(sum(answer.completion_tokens for answer in answers) / wall_s, 1),
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(percentile(seconds, percent), 4) for percent in (50, 95)} if seconds else {}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    width, _, height = options.picture.partition("x")
    size = (int(width), int(height))
    text = (QUESTION * 50)[: options.text_characters]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=options.url, timeout=TIMEOUT_S, limits=limits, trust_env=False, headers=NOT_FROM_CACHE
    ) as client:
        served = (await client.get("/v1/models")).raise_for_status().json()["data"][0]
        seed, rounds = 0, []
        for callers in options.callers:
            count = max(options.least, callers * options.each)
            seeds = range(seed, seed := seed + count + callers)
            bodies = [request(served["id"], size, text, options.answer_tokens, each) for each in seeds]
            await closed_loop(client, bodies[count:], callers)  # warm-up: connections and this batch size
            results, wall_s = await closed_loop(client, bodies[:count], callers)
            for failure in [result for result in results if isinstance(result, EndpointError)][:3]:
                print(f"failed: {failure}", file=sys.stderr)
            rounds.append(summary(results, callers, wall_s))
            print(json.dumps(rounds[-1]), file=sys.stderr)
    return header("capacity", ["httpx"]) | {
        "served": {key: served[key] for key in ("id", "parameters", "quantization", "dtype", "device")},
        "picture": options.picture,
        "text_characters": options.text_characters,
        "answer_tokens": options.answer_tokens,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="root of the service")
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--each", type=int, default=4, help="requests of each caller (default: 4)")
    parser.add_argument("--least", type=int, default=16, help="fewest requests of a round (default: 16)")
    parser.add_argument("--picture", default="1120x1120", help="pixels of the pictures (default: 1120x1120)")
    parser.add_argument("--text-characters", type=int, default=190, help="length of the question (default: 190)")
    parser.add_argument("--answer-tokens", type=int, default=128, help="length of an answer (default: 128)")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
