"""How long does a follow-up about the same picture take to its first token, besides the engine's own time?

Method: a service (`glm-serve up`, demo model, whose limit of picture tokens is raised) gets a question about a new JPEG
picture, then more questions about it. The engine's own time (queue, encode, prefill), which the service reports with
each answer, is subtracted from the time at which the client has the first text; what is left is HTTP, preprocess and
transport. With `--beside DIR`, another checkout of this repository runs at the same time and is asked in turns, so that
both have the same machine; a ratio is that of the medians of one turn.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.followups --beside /tmp/before

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.endpoint import NOT_FROM_CACHE, stream
from benchmarks.evaluation_set import data_url
from benchmarks.peers import server as peers
from benchmarks.photograph import photograph
from benchmarks.report import ROOT, header, save
from benchmarks.serve_load import DEMO

ENGINE_STAGES = ("queue", "encode", "prefill")
SETTINGS = {"GLM_MODEL__CONTEXT_TOKENS": "4096"}


async def ask(client: httpx.AsyncClient, picture: str, question: str, detail: str) -> dict[str, float]:
    """Milliseconds until the first text, of which outside the engine, and of preprocess."""
    image = {"url": picture, "detail": detail}
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": question}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 2,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = await stream(client, body)
    first_ms = answer.first_token_s * 1000
    engine_ms = sum(answer.timings.get(f"{stage}_ms", answer.timings.get(stage, 0.0)) for stage in ENGINE_STAGES)
    return {"first_token": first_ms, "outside_engine": first_ms - engine_ms, **answer.timings}


async def turn(
    client: httpx.AsyncClient, picture: str, number: int, follow_ups: int, detail: str
) -> dict[str, dict[str, float]]:
    """Figures of a new picture, and medians of the follow-ups about it."""
    first = await ask(client, picture, f"What is written on this label? {number}", detail)
    later = [await ask(client, picture, f"And question {n} of turn {number}?", detail) for n in range(follow_ups)]
    medians = {name: statistics.median(each[name] for each in later) for name in later[0]}
    return {"new_picture": first, "follow_up": medians}


async def compare(urls: dict[str, str], pictures: list[str], follow_ups: int, detail: str) -> dict[str, Any]:
    """Medians over all turns of each service, and of the ratios of this checkout to the other in one turn."""
    turns: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in urls}
    for number, picture in enumerate(pictures):
        for name in sorted(urls, reverse=bool(number % 2)):
            async with httpx.AsyncClient(
                base_url=urls[name], timeout=120, trust_env=False, headers=NOT_FROM_CACHE
            ) as client:
                figures = await turn(client, picture, number, follow_ups, detail)
            if number:  # the first turn is a warm-up
                turns[name].append(figures)
    report: dict[str, Any] = {}
    for kind in ("new_picture", "follow_up"):
        for name, each in turns.items():
            report.setdefault(name, {})[kind] = {
                figure: round(statistics.median(one[kind].get(figure, 0.0) for one in each), 2)
                for figure in each[0][kind]
            }
        if len(urls) == 2:
            pairs = list(zip(turns["this"], turns["beside"], strict=True))
            report.setdefault("ratio", {})[kind] = {
                figure: round(statistics.median(a[kind][figure] / b[kind][figure] for a, b in pairs), 3)
                for figure in ("first_token", "outside_engine")
            }
    return report


def with_large_pictures(model: Path, folder: Path) -> Path:
    """A copy of a model folder, in which a picture may have 15,000 tokens; the weights are linked."""
    for file in model.iterdir():
        if file.name != "preprocessor_config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((model / "preprocessor_config.json").read_text())
    config["size"]["longest_edge"] = 28 * 28 * 2 * 15_000
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout of this repository, asked in turns with this one")
    parser.add_argument("--model", type=Path, default=DEMO, help="model folder (default: the demo model)")
    parser.add_argument("--picture", default="1120x1120", help="pixels of the pictures (default: 1120x1120)")
    parser.add_argument(
        "--detail",
        default="original",
        choices=("original", "low"),
        help="original: not scaled down, as a model with a long context sees it (default); low: few tokens, so that the"
        " model's own time, which varies on a CPU, is small",
    )
    parser.add_argument(
        "--threads", type=int, help="of the model; with fewer than there are cores it disturbs no stage"
    )
    parser.add_argument("--turns", type=int, default=7, help="pictures (default: 7)")
    parser.add_argument("--follow-ups", type=int, default=8, help="about each picture (default: 8)")
    parser.add_argument("--port", type=int, default=18480)
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()

    width, _, height = options.picture.partition("x")
    pictures = [data_url(photograph(int(width), int(height), seed)) for seed in range(options.turns + 1)]
    report = header("followups", ["ray", "torch"]) | {
        "picture": options.picture,
        "detail": options.detail,
        "threads": options.threads,
        "body_bytes": len(pictures[0]),
    }
    folders = {"this": ROOT} | ({"beside": options.beside.resolve()} if options.beside else {})
    with ExitStack() as stack:
        model = with_large_pictures(options.model, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        variables = SETTINGS | ({"GLM_ENGINE__THREADS": str(options.threads)} if options.threads else {})
        urls = {}
        for number, (name, folder) in enumerate(folders.items()):
            server = peers.ours(model, options.port + 10 * number, variables, checkout=folder)
            urls[name] = stack.enter_context(peers.running(server, options.port + 10 * number))[0]
        report |= asyncio.run(compare(urls, pictures, options.follow_ups, options.detail))
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
