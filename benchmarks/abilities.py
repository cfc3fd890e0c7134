"""How often does a served model think, call tools, tell their results and point as it should?

Fifty questions an ability (benchmarks/evaluation/abilities.jsonl) over any OpenAI-compatible endpoint,
greedy, nothing forced: tools are given with `tool_choice` auto, thinking is asked for by
`chat_template_kwargs`. Right means: reasoning, then exactly the answer; the calls with equal arguments,
or the answer and no call where none is due; every fact of the results in the answer; a box that
overlaps the true one by half (intersection over union). The last line printed is one JSON object.

    python -m benchmarks.abilities --url http://127.0.0.1:8000
    python -m benchmarks.abilities --url http://127.0.0.1:8000 --only pointing --show-wrong
"""

import argparse
import asyncio
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.jobs import EVALUATION, Unreachable, add_endpoint, complete, data_url, normal, served_model
from training.pointing import Region, overlap, pointed

ABILITIES = ("thinking", "tools", "results", "pointing")
_HIT = 0.5
_MAX_TOKENS = 256


@dataclass(frozen=True)
class Outcome:
    asked: dict[str, Any]
    message: dict[str, Any]
    seconds: float

    @property
    def right(self) -> bool:
        return is_right(self.asked, self.message)


def questions(only: str = "", folder: Path = EVALUATION) -> list[dict[str, Any]]:
    """The fixed set; each line has a picture, a question and what its answer must have."""
    lines = (folder / "abilities.jsonl").read_text("utf-8").splitlines()
    return [asked for asked in map(json.loads, lines) if only in ("", asked["ability"])]


def body(asked: dict[str, Any], model: str, folder: Path = EVALUATION) -> dict[str, Any]:
    """The request: picture before text; for results, the calls and what they gave back."""
    picture = {"type": "image_url", "image_url": {"url": data_url(folder / asked["picture"])}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [picture, {"type": "text", "text": asked["question"]}]}
    ]
    request = {"model": model, "messages": messages, "temperature": 0, "max_tokens": _MAX_TOKENS}
    if "tools" in asked:
        request["tools"] = asked["tools"]
    if asked["ability"] == "thinking":
        request["chat_template_kwargs"] = {"enable_thinking": True}
    if asked["ability"] == "results":
        calls = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for number, call in enumerate(asked["calls"])
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        for number, result in enumerate(asked["results"]):
            messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": result})
    return request


def is_right(asked: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether a chat completion's message has what the question asks for."""
    said = message.get("content") or ""
    calls = [
        (call["function"]["name"], _parsed(call["function"]["arguments"])) for call in message.get("tool_calls") or []
    ]
    match asked["ability"]:
        case "thinking":
            thought = message.get("reasoning_content") or message.get("reasoning") or ""
            return bool(thought.strip()) and normal(said) == normal(asked["answer"])
        case "tools" if "calls" in asked:
            return calls == [(call["name"], call["arguments"]) for call in asked["calls"]]
        case "tools":
            return not calls and normal(said) == normal(asked["answer"])
        case "results":
            return not calls and all(fact in said for fact in asked["facts"])
        case _:
            box = _box(message)
            return box is not None and overlap(box, tuple(asked["box"])) >= _HIT


def _box(message: dict[str, Any]) -> Region | None:
    """The first box: this service gives them apart, other servers leave them in the text."""
    for answer in message.get("boxes") or []:
        for box in answer["boxes"]:
            left, top, right, bottom = box["box_1000"]
            return left, top, right, bottom
    return pointed(message.get("content") or "")


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


async def ask_all(
    client: httpx.AsyncClient, asked: list[dict[str, Any]], model: str, concurrency: int
) -> list[Outcome]:
    free = asyncio.Semaphore(concurrency)

    async def one(question: dict[str, Any]) -> Outcome:
        async with free:
            return Outcome(question, *await complete(client, body(question, model)))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(question)) for question in asked]
    except* Unreachable as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Score and median seconds of each ability; calls and questions without a call apart."""
    result: dict[str, Any] = {}
    for ability in ABILITIES:
        ours = [outcome for outcome in outcomes if outcome.asked["ability"] == ability]
        if not ours:
            continue
        seconds = sorted(outcome.seconds for outcome in ours)
        result[ability] = {"score": _share(ours), "n": len(ours), "p50_s": round(seconds[len(seconds) // 2], 3)}
        if ability == "tools":
            called = [outcome for outcome in ours if "calls" in outcome.asked]
            result[ability] |= {"calls": _share(called), "no_call": _share([o for o in ours if o not in called])}
    return result


def _share(outcomes: list[Outcome]) -> float:
    return round(sum(outcome.right for outcome in outcomes) / max(1, len(outcomes)), 4)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    timeout = httpx.Timeout(options.timeout, connect=5.0)
    async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=timeout) as client:
        model = options.model or await served_model(client)
        outcomes = await ask_all(client, questions(options.only), model, options.concurrency)
    if options.show_wrong:
        for outcome in outcomes:
            if not outcome.right:
                asked = {key: value for key, value in outcome.asked.items() if key != "tools"}
                print(json.dumps({"asked": asked, "got": outcome.message}, ensure_ascii=False))
    versions = {"python": platform.python_version(), "httpx": httpx.__version__}
    return {"abilities": summary(outcomes), "model": model, "settings": {"url": options.url}, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.abilities"
    )
    add_endpoint(parser)
    parser.add_argument("--only", default="", choices=("", *ABILITIES), help="one ability; all without it")
    options = parser.parse_args()
    options.url = options.url.rstrip("/").removesuffix("/v1")
    try:
        print(json.dumps(asyncio.run(run(options)), ensure_ascii=False))
    except Unreachable as problem:
        sys.exit(f"benchmarks.abilities: {problem}")


if __name__ == "__main__":
    main()
