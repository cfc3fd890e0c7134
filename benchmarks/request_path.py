"""When does a request reach each process of the service, and when does its first text come back?

Method: a service (`glm-serve up`) whose functions record timestamps (path_probe/sitecustomize.py) gets questions one at
a time: about a new 1120 x 1120 JPEG picture, then more about the same picture, and texts alone. Times are milliseconds
since the client began, medians over all questions of a kind.

    python -m benchmarks.request_path
    python -m benchmarks.request_path --model DIR

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.endpoint import NOT_FROM_CACHE, stream
from benchmarks.evaluation_set import data_url
from benchmarks.followups import SETTINGS, with_large_pictures
from benchmarks.peers import server as peers
from benchmarks.photograph import photograph
from benchmarks.report import ROOT, header, save
from benchmarks.serve_load import DEMO

PROBE = ROOT / "benchmarks" / "path_probe"
KINDS = ("new picture", "follow-up", "text")
PAUSE_S = 0.05  # between questions, as a person's: the processes are idle


async def ask(client: httpx.AsyncClient, text: str, picture: str = "") -> tuple[float, float, dict[str, float]]:
    """When the client began and had the first text, in milliseconds of the monotonic clock; the stages' times."""
    image = [{"type": "image_url", "image_url": {"url": picture, "detail": "low"}}] if picture else []
    body = {
        "messages": [{"role": "user", "content": [*image, {"type": "text", "text": text}]}],
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    await asyncio.sleep(PAUSE_S)
    began = time.monotonic_ns() / 1e6
    answer = await stream(client, body)
    return began, began + answer.first_token_s * 1000, answer.timings


async def ask_all(url: str, pictures: int, follow_ups: int) -> dict[str, list[tuple[float, float, dict[str, float]]]]:
    """The questions of each kind; those about the first picture are a warm-up."""
    asked: dict[str, list[tuple[float, float, dict[str, float]]]] = {kind: [] for kind in KINDS}
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, headers=NOT_FROM_CACHE) as client:
        for number in range(pictures + 1):
            picture = data_url(photograph(1120, 1120, number))
            new = await ask(client, f"What is written on this label? {number}", picture)
            later = [await ask(client, f"Question {n} of {number}?", picture) for n in range(follow_ups)]
            texts = [await ask(client, f"Text {n} of {number}") for n in range(follow_ups)]
            if number:
                asked["new picture"].append(new)
                asked["follow-up"] += later
                asked["text"] += texts
    return asked


def path(questions: list[tuple[float, float, dict[str, float]]], records: list[tuple[float, str]]) -> dict[str, float]:
    """Median milliseconds from the client's start to each trace point that most questions reached, in their order.

    If a question reached a trace point twice, the first time counts; of dispatched events, the last before the text.
    """
    found: dict[str, list[float]] = {}
    for began, ended, _ in questions:
        times: dict[str, float] = {}
        for at, point in records:
            again = point == "dispatched" and "text sent" not in times
            if began <= at <= ended and (again or point not in times):
                times[point] = at - began
        for point, after in times.items():
            found.setdefault(point, []).append(after)
    medians = {name: statistics.median(each) for name, each in found.items() if len(each) > len(questions) / 2}
    medians["first text"] = statistics.median(ended - began for began, ended, _ in questions)
    return {name: round(after, 2) for name, after in sorted(medians.items(), key=lambda each: each[1])}


def read_records(folder: Path) -> list[tuple[float, str]]:
    """Timestamps in milliseconds and trace points, of all processes."""
    lines = [line.split(" ", 1) for file in folder.iterdir() for line in file.read_text().splitlines()]
    return sorted((int(at) / 1e6, point) for at, point in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO, help="model folder (default: the demo model)")
    parser.add_argument("--threads", type=int, help="of the model on a CPU")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--follow-ups", type=int, default=6, help="about each picture, and texts (default: 6)")
    parser.add_argument("--port", type=int, default=18480)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()

    report: dict[str, Any] = header("request_path", ["ray", "torch"]) | {"threads": options.threads}
    with ExitStack() as stack:
        model, folder = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        model = with_large_pictures(options.model, model)
        paths = [str(PROBE), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ |= {"TRACE_FOLDER": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
        variables = SETTINGS | ({"GLM_ENGINE__THREADS": str(options.threads)} if options.threads else {})
        server = peers.ours(model, options.port, variables)
        url = stack.enter_context(peers.running(server, options.port))[0]
        asked = asyncio.run(ask_all(url, options.pictures, options.follow_ups))
        time.sleep(1)  # until the last records are written
        records = read_records(folder)
    for kind, questions in asked.items():
        report[kind] = path(questions, records)
        print(f"{kind}: " + ", ".join(f"{name} {after}" for name, after in report[kind].items()))
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
