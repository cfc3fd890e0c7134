"""How often does a served model answer the three jobs' questions exactly right, and how fast?

The fixed evaluation set (benchmarks/evaluation: shipping labels and panels, circuit boards, documents)
is asked over any OpenAI-compatible endpoint: the picture as a data URL, then the question, greedy.
An answer counts when it equals the expected one, apart from space around it, space between characters,
and the width of punctuation. The last line printed is one JSON object.

    python -m benchmarks.jobs --url http://127.0.0.1:8000
    python -m benchmarks.jobs --url http://127.0.0.1:8000 --limit 20 --concurrency 4 --show-wrong
"""

import argparse
import asyncio
import base64
import json
import platform
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

EVALUATION = Path(__file__).parent / "evaluation"
_WIDTHS = str.maketrans({"，": ",", "：": ":", "。": ".", "；": ";", "（": "(", "）": ")"})
_MAX_TOKENS = 96


@dataclass(frozen=True)
class Question:
    picture: str
    job: str
    kind: str
    language: str
    question: str
    answer: str


@dataclass(frozen=True)
class Outcome:
    question: Question
    said: str
    seconds: float

    @property
    def right(self) -> bool:
        return normal(self.said) == normal(self.question.answer)


class Unreachable(Exception):
    """The endpoint does not answer; the message says what to do about it."""


def normal(answer: str) -> str:
    """The answer without what does not change its meaning: spaces, full-width punctuation, a final stop."""
    return "".join(answer.translate(_WIDTHS).split()).rstrip(".")


def questions(limit: int | None = None, folder: Path = EVALUATION) -> list[Question]:
    """The evaluation set, the first `limit` questions of each job."""
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for line in (folder / "questions.jsonl").read_text("utf-8").splitlines():
        question = Question(**json.loads(line))
        taken[question.job] += 1
        if limit is None or taken[question.job] <= limit:
            kept.append(question)
    return kept


def body(question: Question, model: str, folder: Path = EVALUATION) -> dict[str, Any]:
    """The request: picture before text, greedy."""
    content = [
        {"type": "image_url", "image_url": {"url": data_url(folder / question.picture)}},
        {"type": "text", "text": question.question},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": _MAX_TOKENS}


def data_url(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"


async def served_model(client: httpx.AsyncClient) -> str:
    try:
        response = await client.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx.HTTPError, KeyError, IndexError, ValueError) as problem:
        raise Unreachable(
            f"{client.base_url} gives no list of models ({problem or type(problem).__name__}); "
            "is the service running, and is --url its root?"
        ) from problem


async def ask(client: httpx.AsyncClient, question: Question, model: str) -> Outcome:
    message, seconds = await complete(client, body(question, model))
    return Outcome(question, message["content"] or "", seconds)


async def complete(client: httpx.AsyncClient, request: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The message that answers a request, and the seconds that it took."""
    started = time.perf_counter()
    try:
        response = await client.post("/v1/chat/completions", json=request)
        response.raise_for_status()
    except httpx.HTTPStatusError as problem:
        raise Unreachable(f"the endpoint refused a question: {problem.response.text[:300]}") from problem
    except httpx.HTTPError as problem:
        raise Unreachable(f"the endpoint went away ({problem or type(problem).__name__})") from problem
    return response.json()["choices"][0]["message"], time.perf_counter() - started


async def ask_all(client: httpx.AsyncClient, asked: list[Question], model: str, concurrency: int) -> list[Outcome]:
    await ask(client, asked[0], model)  # the first request pays for what is loaded lazily; it is not measured
    free = asyncio.Semaphore(concurrency)
    done = 0

    async def one(question: Question) -> Outcome:
        nonlocal done
        async with free:
            outcome = await ask(client, question, model)
        done += 1
        if sys.stderr.isatty() or done % 50 == 0:
            print(f"\r{done}/{len(asked)}", end="", file=sys.stderr, flush=True)
        return outcome

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in asked]
    except* Unreachable as problems:
        raise problems.exceptions[0] from None
    print(file=sys.stderr)
    return [task.result() for task in tasks]


def summary(outcomes: list[Outcome], elapsed_s: float) -> dict[str, Any]:
    jobs: dict[str, Any] = {}
    for job in dict.fromkeys(outcome.question.job for outcome in outcomes):
        of_job = [outcome for outcome in outcomes if outcome.question.job == job]
        jobs[job] = {"score": _share(of_job), "n": len(of_job)} | {
            "kinds": {
                kind: _share([o for o in of_job if o.question.kind == kind])
                for kind in sorted({o.question.kind for o in of_job})
            }
        }
    languages = {
        language: _share([o for o in outcomes if o.question.language == language]) for language in ("zh", "en")
    }
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "jobs": jobs,
        "languages": languages,
        "latency_s": {"p50": _quantile(seconds, 0.5), "p95": _quantile(seconds, 0.95)},
        "requests_per_s": round(len(outcomes) / elapsed_s, 3),
        "versions": {"python": platform.python_version(), "httpx": httpx.__version__},
    }


def _share(outcomes: list[Outcome]) -> float:
    return round(sum(outcome.right for outcome in outcomes) / max(1, len(outcomes)), 4)


def _quantile(ordered: list[float], part: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 4)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    timeout = httpx.Timeout(options.timeout, connect=5.0)
    async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=timeout) as client:
        model = options.model or await served_model(client)
        asked = questions(options.limit)
        started = time.perf_counter()
        outcomes = await ask_all(client, asked, model, options.concurrency)
        result = summary(outcomes, time.perf_counter() - started)
    if options.show_wrong:
        for outcome in outcomes:
            if not outcome.right:
                asked_ = outcome.question
                print(f"{asked_.picture} {asked_.question} expected {asked_.answer!r}, got {outcome.said!r}")
    settings = {"url": options.url, "concurrency": options.concurrency, "limit": options.limit}
    return result | {"model": model, "settings": settings}


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """The options that say whom to ask, and how hard."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="root of the endpoint, without /v1")
    parser.add_argument("--concurrency", type=int, default=2, help="requests in flight at once")
    parser.add_argument("--model", default="", help="model to name in requests; the endpoint's first without it")
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one answer may take")
    parser.add_argument("--show-wrong", action="store_true", help="print every wrong answer")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.jobs"
    )
    add_endpoint(parser)
    parser.add_argument("--limit", type=int, default=None, help="questions of each job; all without it")
    options = parser.parse_args()
    options.url = options.url.rstrip("/").removesuffix("/v1")
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be at least 1")
    try:
        print(json.dumps(asyncio.run(run(options)), ensure_ascii=False))
    except Unreachable as problem:
        sys.exit(f"benchmarks.jobs: {problem}")


if __name__ == "__main__":
    main()
