"""How many requests a second does this service answer, beside `transformers serve` and plain `generate()`?

Method: the same demo weights (float32), pictures, questions and machine; one server at a time, in alternating rounds;
closed loop at each concurrency, streamed answers, greedy. Each picture is used once per start of a server, so no
cache helps. First token is the first piece of text that the client receives. Answers are compared between the
servers, which shows that all did the same work. Medians and 95th percentiles; a warm-up is not counted.

    python -m benchmarks.serve_load                         # all three, concurrency 1, 4, 16
    python -m benchmarks.serve_load --servers ours --requests 64

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.endpoint import NOT_FROM_CACHE, EndpointError, StreamedAnswer, closed_loop
from benchmarks.evaluation_set import Question, chat_request, one_question_per_picture
from benchmarks.peers import server as peers
from benchmarks.report import ROOT, header, percentile, save

DEMO = ROOT / "serve_app" / "demo" / "model"
SERVERS = {"ours": peers.ours, "transformers_serve": peers.transformers, "plain_generate": peers.plain_generate}
WARM_UP_REQUESTS = 3


@dataclass
class Point:
    """All answers of one server at one concurrency."""

    wall_s: float = 0.0
    answers: list[StreamedAnswer] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # by picture

    def summary(self) -> dict[str, float]:
        first_ms = [answer.first_token_s * 1e3 for answer in self.answers]
        latency_ms = [answer.latency_s * 1e3 for answer in self.answers]
        return {
            "requests_per_s": round(len(self.answers) / self.wall_s, 2),
            "first_token_ms_p50": round(percentile(first_ms, 50), 1),
            "first_token_ms_p95": round(percentile(first_ms, 95), 1),
            "latency_ms_p50": round(percentile(latency_ms, 50), 1),
            "latency_ms_p95": round(percentile(latency_ms, 95), 1),
        }


async def load(base: str, model: str, questions: list[Question], concurrency: int, max_tokens: int, to: Point) -> None:
    """Ask all questions, at most `concurrency` at once; adds to a point, raises the first failure."""
    bodies = [chat_request(each.picture, each.question, model, max_tokens) | {"stream": True} for each in questions]
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=base, timeout=600, limits=limits, headers=NOT_FROM_CACHE) as client:
        results, wall_s = await closed_loop(client, bodies, concurrency)
    for question, result in zip(questions, results, strict=True):
        if isinstance(result, EndpointError):
            raise result
        to.answers.append(result)
        to.texts[question.picture] = result.text.strip()
    to.wall_s += wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=SERVERS)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=24, help="per concurrency and round (default: 24)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()

    pool = one_question_per_picture()
    needed = options.requests * len(options.concurrency) + WARM_UP_REQUESTS
    if len(pool) < needed:
        raise SystemExit(f"The run needs {needed} pictures, the evaluation set has {len(pool)}. Lower --requests.")
    points = {server: {c: Point() for c in options.concurrency} for server in options.servers}
    for turn in range(options.rounds):
        for server in options.servers:
            started = SERVERS[server](DEMO, options.port)
            with peers.running(started, options.port) as (base, _):
                asyncio.run(load(base, started.model, pool[-WARM_UP_REQUESTS:], 1, options.max_tokens, Point()))
                for index, concurrency in enumerate(options.concurrency):
                    batch = pool[index * options.requests : (index + 1) * options.requests]
                    point = points[server][concurrency]
                    asyncio.run(load(base, started.model, batch, concurrency, options.max_tokens, point))
                    print(f"round {turn + 1} {server:20} c={concurrency:<3} {point.summary()}", flush=True)

    reference = points[options.servers[0]]
    report: dict[str, Any] = header("serve_load", ["torch", "transformers", "ray"]) | {
        "servers": {s: {str(c): point.summary() for c, point in by.items()} for s, by in points.items()},
        "answers_equal_to_first_server": {
            server: {str(c): _agreement(reference[c], point) for c, point in by.items()}
            for server, by in points.items()
        },
        "requests_per_point": options.requests * options.rounds,
        "max_tokens": options.max_tokens,
    }
    if options.save:
        save(report)
    print(json.dumps(report))


def _agreement(one: Point, other: Point) -> float:
    """The share of pictures to which both gave the same answer."""
    shared = one.texts.keys() & other.texts.keys()
    return round(sum(one.texts[name] == other.texts[name] for name in shared) / max(len(shared), 1), 3)


if __name__ == "__main__":
    main()
