"""How many picture questions a second does a service answer at several numbers of callers, beside vLLM or transformers?

A closed loop: every caller sends its next request after its last answer. Answers have a fixed length (`ignore_eos`),
so the work does not depend on the weights; each request has a new picture, so no cache helps. First token, gaps between
pieces of text and total latency are those at the HTTP client. Then follow-ups: more questions about one picture.
Servers get the same weights, pictures and questions, one after the other.

    python -m benchmarks.capacity --url http://127.0.0.1:8000 --callers 1 8 32 64       # a running service
    python -m benchmarks.capacity --model DIR --peer vllm                               # starts ours, then vLLM
    python -m benchmarks.capacity --model DIR --callers 64 --gpus 1 2                   # 64 callers for each GPU

With `--gpus` our service is started with that many engine replicas, one after the other, and `--parts` are measured
(several_gpus.py): a closed loop of new pictures, follow-ups in conversations, an engine replica killed under load.
`--model DIR --device cpu` with a small model is a dry run on a machine without GPUs.

`benchmarks.random_model` writes a DIR in the 9B shape. Our server takes `GLM_*` variables from the environment. The
last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import several_gpus
from benchmarks.endpoint import NOT_FROM_CACHE, EndpointError, StreamedAnswer, closed_loop, served_model, stream
from benchmarks.evaluation_set import data_url
from benchmarks.peers import server as peers
from benchmarks.photograph import photograph
from benchmarks.report import header, percentile, save

TIMEOUT_S = 300
FOLLOW_UPS = 5
CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class Load:
    """The pictures and questions that every server gets."""

    callers: list[int]
    pictures: list[str]  # data URLs
    requests: list[int]  # of each round, warm-up apart
    text: str
    answer_tokens: int

    def body(self, model: str, picture: int, text: str, ignore_eos: bool) -> dict[str, Any]:
        """A streamed chat request about a picture."""
        content = [
            {"type": "image_url", "image_url": {"url": self.pictures[picture]}},
            {"type": "text", "text": text},
        ]
        return {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if ignore_eos else {}),
        }


def prepare(options: argparse.Namespace) -> Load:
    """Draws all pictures; a warm-up of one request for each caller precedes a round."""
    width, _, height = options.picture.partition("x")
    requests = [max(options.least, callers * options.each) for callers in options.callers]
    count = sum(requests) + sum(options.callers) + 1
    with ProcessPoolExecutor() as pool:
        files = list(
            pool.map(photograph, *zip(*[(int(width), int(height), seed) for seed in range(count)], strict=True))
        )
    text = (several_gpus.QUESTION * 50)[: options.text_characters]
    return Load(options.callers, [data_url(file) for file in files], requests, text, options.answer_tokens)


def summary(results: list[StreamedAnswer | EndpointError], callers: int, wall_s: float) -> dict[str, Any]:
    answers = [result for result in results if isinstance(result, StreamedAnswer)]
    return {
        "callers": callers,
        "requests": len(answers),
        "failures": len(results) - len(answers),
        "requests_per_s": round(len(answers) / wall_s, 2),
        "first_token_s": _percentiles([answer.first_token_s for answer in answers]),
        "latency_s": _percentiles([answer.latency_s for answer in answers]),
        "gap_s": _percentiles([gap for answer in answers for gap in answer.gaps_s], (50, 99)),
        "prompt_tokens": round(sum(answer.prompt_tokens for answer in answers) / max(1, len(answers))),
        "answer_tokens": round(sum(answer.completion_tokens for answer in answers) / max(1, len(answers)), 1),
        "answer_tokens_per_s": round(sum(answer.completion_tokens for answer in answers) / wall_s, 1),
    }


def _percentiles(seconds: list[float], percents: tuple[int, ...] = (50, 95)) -> dict[str, float]:
    return {f"p{percent}": round(percentile(seconds, percent), 4) for percent in percents} if seconds else {}


async def measure(url: str, model: str, load: Load, ignore_eos: bool = True) -> dict[str, Any]:
    """All rounds against one server, then follow-ups about one picture."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False, headers=NOT_FROM_CACHE
    ) as client:
        model = model or await served_model(client)
        picture, rounds = 1, []  # picture 0 is for the follow-ups
        for callers, count in zip(load.callers, load.requests, strict=True):
            bodies = [load.body(model, picture + number, load.text, ignore_eos) for number in range(count + callers)]
            picture += len(bodies)
            await closed_loop(client, bodies[count:], callers)  # warm-up: connections and this batch size
            client_s = time.process_time()
            results, wall_s = await closed_loop(client, bodies[:count], callers)
            for failure in [result for result in results if isinstance(result, EndpointError)][:3]:
                print(f"failed: {failure}", file=sys.stderr)
            client_share = round((time.process_time() - client_s) / wall_s, 2)  # near 1, the client is what limits
            rounds.append(summary(results, callers, wall_s) | {"client_cpu_share": client_share})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        first, *follow_ups = [
            await stream(client, load.body(model, 0, f"{load.text} Question {number}?", ignore_eos))
            for number in range(1 + FOLLOW_UPS)
        ]
    return {
        "rounds": rounds,
        "new_picture_first_token_s": round(first.first_token_s, 4),
        "new_picture_timings_ms": first.timings,
        "follow_up_first_token_s": [round(each.first_token_s, 4) for each in follow_ups],
        "follow_up_timings_ms": follow_ups[-1].timings,
    }


def started_servers(options: argparse.Namespace, most_callers: int) -> list[peers.Server]:
    """Our server and its peers, as they are started."""
    settings = our_settings(options) | {"GLM_ENGINE__MAX_SLOTS": str(most_callers)}
    makers = {
        "ours": lambda: peers.ours(options.model, options.port, settings),
        "vllm": lambda: peers.vllm(
            options.model, options.port, CONTEXT_TOKENS, options.vllm_packages, options.quantization
        ),
        "transformers": lambda: peers.transformers(options.model, options.port),
    }
    return [makers[name]() for name in (*([] if options.only_peers else ["ours"]), *options.peer)]


def report_header(options: argparse.Namespace) -> dict[str, Any]:
    return header("capacity", ["httpx", "torch", "ray", "vllm", "transformers"]) | {
        "quantization": options.quantization,
        "picture": options.picture,
        "text_characters": options.text_characters,
        "answer_tokens": options.answer_tokens,
    }


def our_settings(options: argparse.Namespace) -> dict[str, str]:
    return {"GLM_MODEL__CONTEXT_TOKENS": str(CONTEXT_TOKENS), "GLM_MODEL__QUANTIZATION": options.quantization}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="root of a running service")
    parser.add_argument("--model", type=Path, help="model folder: start the servers instead of using --url")
    parser.add_argument("--peer", nargs="*", default=[], choices=["vllm", "transformers"], help="servers to start too")
    parser.add_argument("--only-peers", action="store_true", help="do not start our server")
    parser.add_argument("--vllm-packages", default="", help="folder in which vLLM is installed (default: this Python)")
    parser.add_argument("--quantization", choices=["none", "fp8", "nf4"], default="none")
    parser.add_argument("--port", type=int, default=18080, help="of the servers that are started")
    parser.add_argument("--logs", type=Path, help="folder for the output of the servers that are started")
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--each", type=int, default=4, help="requests of each caller (default: 4)")
    parser.add_argument("--least", type=int, default=16, help="fewest requests of a round (default: 16)")
    parser.add_argument("--picture", default="1120x1120", help="pixels of the pictures (default: 1120x1120)")
    parser.add_argument("--text-characters", type=int, default=190, help="length of the question (default: 190)")
    parser.add_argument("--answer-tokens", type=int, default=128, help="length of an answer (default: 128)")
    several = parser.add_argument_group("several GPUs")
    several.add_argument(
        "--gpus", nargs="+", type=int, default=[], help="numbers of engine replicas, one after the other"
    )
    several.add_argument("--parts", nargs="+", choices=several_gpus.PARTS, default=list(several_gpus.PARTS))
    several.add_argument(
        "--ways", nargs="+", choices=several_gpus.WAYS, default=["direct"], help="the ingress's own port, or HAProxy"
    )
    several.add_argument("--clients", type=int, default=1, help="client processes for each GPU (default: 1)")
    several.add_argument("--slots", type=int, default=0, help="of each engine (default: the callers of a GPU)")
    several.add_argument("--conversation-tokens", type=int, default=32, help="length of an answer in a conversation")
    several.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    several.add_argument("--pictures", help="folder in which pictures are drawn (default: that of temporary files)")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()

    if options.peer and options.model is None:
        raise SystemExit("--peer starts servers, which need a model folder: --model DIR.")
    if options.gpus and options.model is None:
        raise SystemExit("--gpus starts our service, which needs a model folder: --model DIR.")
    if options.gpus:
        command = {"command": f"python -m benchmarks.capacity {shlex.join(sys.argv[1:])}"}
        report = report_header(options) | command | several_gpus.measure(options, our_settings(options))
        if options.save:
            save(
                report,
                "-".join(["", str(max(options.gpus)), "gpus", *(way for way in options.ways if way != "direct")]),
            )
        print(json.dumps(report))
        return
    started = started_servers(options, max(options.callers)) if options.model else []
    load = prepare(options)
    servers: dict[str, Any] = {}
    if not started:
        servers["service"] = asyncio.run(measure(options.url, "", load))
    for server in started:
        log = options.logs / f"{server.name}.log" if options.logs else None
        with peers.running(server, options.port, log) as (url, start_s):
            print(f"{server.name} is ready after {start_s:.1f} s", file=sys.stderr, flush=True)
            figures = asyncio.run(measure(url, server.model, load, server.ignores_eos))
            servers[server.name] = {"start_s": round(start_s, 1)} | figures
    report = report_header(options) | {"servers": servers}
    if options.save:
        save(report, "" if options.quantization == "none" else f"-{options.quantization}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
