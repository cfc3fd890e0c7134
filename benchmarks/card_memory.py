"""How many requests does a GPU of a given memory hold at once, and do they all get an answer?

Method: another process takes memory of the GPU until only that of the smaller card is left. An engine (no HTTP) loads
the checkpoint into what is left, as the service does; requests with a 1120x1120 picture, 1,808 prompt tokens and 128
tokens of answer are submitted together. The GPU has the speed that it has: only memory is that of the smaller card.

    python -m benchmarks.random_model DIR --device cuda
    python -m benchmarks.card_memory DIR --gib 23.5 --quantization nf4 --requests 140

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.engine import prompts
from benchmarks.report import header, percentile, save
from serve_app.contracts import Delta, Finished
from serve_app.engine.replica import EngineReplica
from serve_app.errors import ServiceError
from serve_app.metrics import SilentMeter
from serve_app.replies import EngineEvent
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings

_TAKE = """
import sys, torch
torch.zeros(1, device="cuda")
free = torch.cuda.mem_get_info()[0]
taken = torch.empty(max(0, free - int(float(sys.argv[1]) * 2**30)), dtype=torch.uint8, device="cuda")
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def memory_left(gib: float) -> Iterator[None]:
    """While open, another process has all memory of the GPU but so much."""
    command = [sys.executable, "-c", _TAKE, str(gib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "taken":
            raise SystemExit("The memory of the GPU could not be taken.")
        yield
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder")
    parser.add_argument("--gib", type=float, default=23.5, help="memory that is left (default: 23.5)")
    parser.add_argument("--quantization", choices=["none", "fp8", "nf4"], default="nf4")
    parser.add_argument("--requests", type=int, default=140)
    parser.add_argument("--slots", type=int, default=192, help="engine.max_slots (default: 192)")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    with memory_left(options.gib):
        print(json.dumps(measure(options)))


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Loads the engine, submits the requests together, and waits for all."""
    model = ModelSettings(path=options.model, quantization=options.quantization, context_tokens=4096)
    settings = EngineSettings(max_slots=options.slots, max_waiting=options.requests)
    replica = EngineReplica(model, settings, MetricsSettings(), SilentMeter())
    free_after_start = torch.cuda.mem_get_info()[0]
    ended = threading.Semaphore(0)
    failures: list[str] = []
    first: dict[str, float] = {}
    started = time.perf_counter()
    batch = prompts(options.requests, 1120, 208, 128, "card")
    for prompt in batch:

        def sink(event: EngineEvent | ServiceError, name: str = prompt.id) -> None:
            if isinstance(event, Delta):
                first.setdefault(name, time.perf_counter() - started)
            if isinstance(event, ServiceError):
                failures.append(event.message)
            if isinstance(event, (Finished, ServiceError)):
                ended.release()

        replica.loop.submit(replica.loop.admission.admit(prompt, sink))
    most_at_once, least_free, left = 0, free_after_start, options.requests
    while left:
        if ended.acquire(timeout=0.02):
            left -= 1
        most_at_once = max(most_at_once, replica.loop.slots_used())
        least_free = min(least_free, torch.cuda.mem_get_info()[0])
    report = header("card_memory", ["torch", "transformers", "bitsandbytes"]) | {
        "gib": options.gib,
        "quantization": options.quantization,
        "device": replica.card.device,
        "requests": options.requests,
        "at_once": most_at_once,
        "failures": len(failures),
        "messages": sorted(set(failures))[:3],
        "seconds": round(time.perf_counter() - started, 2),
        "first_token_s": {"p50": round(percentile(list(first.values()), 50), 2)} if first else {},
        "free_gib_after_start": round(free_after_start / 2**30, 2),
        "least_free_gib": round(least_free / 2**30, 2),
    }
    if options.save:
        save(report, f"-{options.quantization}")
    return report


if __name__ == "__main__":
    main()
