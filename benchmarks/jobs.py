"""How many questions of the three jobs does a served model answer exactly right, and how fast?

The fixed evaluation set (benchmarks/evaluation: shipping labels and device panels, circuit boards, documents) is sent
to an OpenAI-compatible endpoint: the picture as a data URL, then the question, greedy. An answer is correct if it
equals the expected one after `normalize`: spaces, the width of punctuation and a final full stop are ignored. The
last line on stdout is one JSON object.

    python -m benchmarks.jobs --url http://127.0.0.1:8000
    python -m benchmarks.jobs --url http://127.0.0.1:8000 --limit 20 --concurrency 4 --show-wrong
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks import endpoint
from benchmarks.evaluation_set import Question, chat_request, load_questions, normalize
from benchmarks.report import header, percentile

_MAX_TOKENS = 96


@dataclass(frozen=True)
class Result:
    """The model's answer to one question, and how long it took."""

    question: Question
    answer: str
    seconds: float

    @property
    def correct(self) -> bool:
        return normalize(self.answer) == normalize(self.question.answer)


async def ask_all(client: httpx.AsyncClient, questions: list[Question], model: str, concurrency: int) -> list[Result]:
    """Send all questions; a first request, which pays for what is loaded lazily, is not measured."""
    bodies = [chat_request(each.picture, each.question, model, _MAX_TOKENS) for each in questions]
    await endpoint.complete(client, bodies[0])
    answers = await endpoint.complete_all(client, bodies, concurrency)
    pairs = zip(questions, answers, strict=True)
    return [Result(question, message["content"] or "", seconds) for question, (message, seconds) in pairs]


def summary(results: list[Result], elapsed_s: float) -> dict[str, Any]:
    """Share of correct answers by job, kind of question and language; latency; throughput."""
    jobs: dict[str, Any] = {}
    for job in dict.fromkeys(result.question.job for result in results):
        of_job = [result for result in results if result.question.job == job]
        kinds = sorted({result.question.kind for result in of_job})
        scores = {kind: _score([each for each in of_job if each.question.kind == kind]) for kind in kinds}
        jobs[job] = {"score": _score(of_job), "n": len(of_job), "kinds": scores}
    seconds = [result.seconds for result in results]
    return {
        "jobs": jobs,
        "languages": {name: _score([r for r in results if r.question.language == name]) for name in ("zh", "en")},
        "latency_s": {"p50": round(percentile(seconds, 50), 4), "p95": round(percentile(seconds, 95), 4)},
        "requests_per_s": round(len(results) / elapsed_s, 3),
    }


def _score(results: list[Result]) -> float:
    return round(sum(result.correct for result in results) / max(1, len(results)), 4)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    async with endpoint.open_client(options) as client:
        model = options.model or await endpoint.served_model(client)
        questions = load_questions(options.limit)
        started = time.perf_counter()
        results = await ask_all(client, questions, model, options.concurrency)
        elapsed_s = time.perf_counter() - started
    if options.show_wrong:
        for result in results:
            if not result.correct:
                asked = result.question
                print(f"{asked.picture} {asked.question} expected {asked.answer!r}, got {result.answer!r}")
    settings = {"url": options.url, "concurrency": options.concurrency, "limit": options.limit}
    return header("jobs", ["httpx"]) | summary(results, elapsed_s) | {"model": model, "settings": settings}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.jobs"
    )
    endpoint.add_arguments(parser)
    parser.add_argument("--limit", type=int, default=None, help="questions of each job (default: all)")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be at least 1.")
    try:
        print(json.dumps(asyncio.run(run(options)), ensure_ascii=False))
    except endpoint.EndpointError as error:
        sys.exit(f"benchmarks.jobs: {error}")


if __name__ == "__main__":
    main()
