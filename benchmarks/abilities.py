"""How often does a served model reason, call tools, use tool results and locate objects correctly?

Fifty questions for each ability (benchmarks/evaluation/abilities.jsonl) over an OpenAI-compatible endpoint, greedy,
nothing forced: tools are offered with `tool_choice` auto, reasoning is switched on by `chat_template_kwargs`. Correct
means: thinking: some reasoning, then exactly the expected answer; tools: the expected calls with equal arguments, or
the expected answer and no call; results: every expected fact in the answer; pointing: a box that overlaps the
expected box by at least half (intersection over union). The last line on stdout is one JSON object.

    python -m benchmarks.abilities --url http://127.0.0.1:8000
    python -m benchmarks.abilities --url http://127.0.0.1:8000 --only pointing --show-wrong
"""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks import endpoint
from benchmarks.evaluation_set import EVALUATION, chat_request, normalize
from benchmarks.report import header, percentile
from training.pointing import Region, overlap, pointed

ABILITIES = ("thinking", "tools", "results", "pointing")
_LEAST_OVERLAP = 0.5
_MAX_TOKENS = 256


@dataclass(frozen=True)
class Result:
    """The message that answered one question, and how long it took."""

    question: dict[str, Any]
    message: dict[str, Any]
    seconds: float

    @property
    def correct(self) -> bool:
        return is_right(self.question, self.message)


def questions(only: str = "") -> list[dict[str, Any]]:
    """The fixed set; each line has an ability, a picture, a question and what the answer must contain."""
    lines = (EVALUATION / "abilities.jsonl").read_text("utf-8").splitlines()
    return [question for question in map(json.loads, lines) if only in ("", question["ability"])]


def body(question: dict[str, Any], model: str) -> dict[str, Any]:
    """The chat request; for `results` it contains the assistant's calls and the tools' results."""
    request = chat_request(question["picture"], question["question"], model, _MAX_TOKENS)
    if "tools" in question:
        request["tools"] = question["tools"]
    if question["ability"] == "thinking":
        request["chat_template_kwargs"] = {"enable_thinking": True}
    if question["ability"] == "results":
        calls = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for number, call in enumerate(question["calls"])
        ]
        request["messages"].append({"role": "assistant", "content": None, "tool_calls": calls})
        for number, result in enumerate(question["results"]):
            request["messages"].append({"role": "tool", "tool_call_id": f"call_{number}", "content": result})
    return request


def is_right(question: dict[str, Any], message: dict[str, Any]) -> bool:
    """Whether the message of a chat completion is correct, by the rules at the top of this file."""
    content = message.get("content") or ""
    calls = [
        (each["function"]["name"], _json(each["function"]["arguments"])) for each in message.get("tool_calls") or []
    ]
    match question["ability"]:
        case "thinking":
            reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
            return bool(reasoning.strip()) and normalize(content) == normalize(question["answer"])
        case "tools" if "calls" in question:
            return calls == [(call["name"], call["arguments"]) for call in question["calls"]]
        case "tools":
            return not calls and normalize(content) == normalize(question["answer"])
        case "results":
            return not calls and all(fact in content for fact in question["facts"])
        case _:
            box = _first_box(message)
            return box is not None and overlap(box, tuple(question["box"])) >= _LEAST_OVERLAP


def _first_box(message: dict[str, Any]) -> Region | None:
    """In thousandths of the picture; this service returns boxes in a field, other servers leave them in the text."""
    for entry in message.get("boxes") or []:
        for box in entry["boxes"]:
            left, top, right, bottom = box["box_1000"]
            return left, top, right, bottom
    return pointed(message.get("content") or "")


def _json(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


async def ask_all(client: httpx.AsyncClient, asked: list[dict[str, Any]], model: str, concurrency: int) -> list[Result]:
    answers = await endpoint.complete_all(client, [body(question, model) for question in asked], concurrency)
    return [Result(question, *answer) for question, answer in zip(asked, answers, strict=True)]


def summary(results: list[Result]) -> dict[str, Any]:
    """Score and median seconds of each ability; for tools also the scores with and without an expected call."""
    report: dict[str, Any] = {}
    for ability in ABILITIES:
        of_ability = [result for result in results if result.question["ability"] == ability]
        if not of_ability:
            continue
        median_s = percentile([result.seconds for result in of_ability], 50)
        report[ability] = {"score": _score(of_ability), "n": len(of_ability), "p50_s": round(median_s, 3)}
        if ability == "tools":
            report[ability]["calls"] = _score([each for each in of_ability if "calls" in each.question])
            report[ability]["no_call"] = _score([each for each in of_ability if "calls" not in each.question])
    return report


def _score(results: list[Result]) -> float:
    return round(sum(result.correct for result in results) / max(1, len(results)), 4)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    async with endpoint.open_client(options) as client:
        model = options.model or await endpoint.served_model(client)
        results = await ask_all(client, questions(options.only), model, options.concurrency)
    if options.show_wrong:
        for result in results:
            if not result.correct:
                asked = {key: value for key, value in result.question.items() if key != "tools"}
                print(json.dumps({"question": asked, "message": result.message}, ensure_ascii=False))
    report = {"abilities": summary(results), "model": model, "settings": {"url": options.url}}
    return header("abilities", ["httpx"]) | report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.abilities"
    )
    endpoint.add_arguments(parser)
    parser.add_argument("--only", default="", choices=("", *ABILITIES), help="one ability (default: all)")
    try:
        print(json.dumps(asyncio.run(run(parser.parse_args())), ensure_ascii=False))
    except endpoint.EndpointError as error:
        sys.exit(f"benchmarks.abilities: {error}")


if __name__ == "__main__":
    main()
