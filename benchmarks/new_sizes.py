"""How much longer does the first request with a prompt length or picture size take than the second?

Method: an engine (no HTTP) answers requests one after the other, each with new text and new pixels, so that nothing is
reused: three of each prompt length, then three of each picture size, in random order of sizes. The difference of the
first and the second is what a size that was never seen costs; that of the second and the third is the noise.

    python -m benchmarks.random_model DIR --device cuda
    python -m benchmarks.new_sizes DIR

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.random_model import IMAGE_TOKEN
from benchmarks.report import header, percentile, save
from serve_app.contracts import Delta, Finished, Picture, Prompt, Sampling
from serve_app.engine.replica import EngineReplica
from serve_app.errors import ServiceError
from serve_app.metrics import SilentMeter
from serve_app.replies import EngineEvent
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings

CONTEXT_TOKENS = 4096
SIDE_PIXELS = 28  # of an image token
REPEATS = 3


def first_token_ms(replica: EngineReplica, prompt: Prompt) -> float:
    """Milliseconds from the submission of a prompt to its first text; raises the engine's error."""
    ended = threading.Event()
    seen: list[float] = []
    failures: list[ServiceError] = []

    def sink(event: EngineEvent | ServiceError) -> None:
        if isinstance(event, (Delta, Finished)) and not seen:
            seen.append(time.perf_counter())
        if isinstance(event, ServiceError):
            failures.append(event)
        if isinstance(event, (Finished, ServiceError)):
            ended.set()

    started = time.perf_counter()
    replica.loop.submit(replica.loop.admission.admit(prompt, sink))
    ended.wait(prompt.deadline_s)
    if failures:
        raise failures[0]
    return (seen[0] - started) * 1e3


def of_length(rng: np.random.Generator, name: str, tokens: int) -> Prompt:
    """A prompt of so many text tokens."""
    sampling = Sampling(max_tokens=1, temperature=0.0, ignore_eos=True)
    return Prompt(name, rng.integers(1000, 100_000, tokens).astype(np.int32), (), sampling, 60.0)


def of_picture(rng: np.random.Generator, name: str, rows: int, columns: int) -> Prompt:
    """A prompt with a picture of rows x columns image tokens and a little text."""
    pixels = rng.integers(0, 255, (rows * SIDE_PIXELS, columns * SIDE_PIXELS, 3), dtype=np.uint8)
    picture = Picture(pixels, name, rows * columns, (pixels.shape[1], pixels.shape[0]))
    text = rng.integers(1000, 100_000, 40)
    token_ids = np.concatenate([text[:5], np.full(picture.tokens, IMAGE_TOKEN), text[5:]]).astype(np.int32)
    return Prompt(name, token_ids, (picture,), Sampling(max_tokens=1, temperature=0.0, ignore_eos=True), 60.0)


def measure(replica: EngineReplica, make: Callable[[str, Any], Prompt], sizes: list[Any]) -> dict[str, Any]:
    """Differences of the first and second, and of the second and third request of each size."""
    runs = [[first_token_ms(replica, make(f"{size} {turn}", size)) for turn in range(REPEATS)] for size in sizes]
    new = [first - second for first, second, _ in runs]
    noise = [second - third for _, second, third in runs]
    return {
        "sizes": len(sizes),
        "first_token_ms": round(statistics.median(second for _, second, _ in runs), 2),
        "extra_ms": {"p50": round(percentile(new, 50), 2), "p90": round(percentile(new, 90), 2), "most": max(new)},
        "noise_ms": {"p50": round(percentile(noise, 50), 2), "p90": round(percentile(noise, 90), 2)},
        "slowest": [str(size) for _, size in sorted(zip(new, map(str, sizes), strict=True))[-3:]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder")
    parser.add_argument("--quantization", choices=["none", "fp8", "nf4"], default="none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", type=int, default=60, help="prompt lengths, and picture sizes (default: 60)")
    parser.add_argument("--shortest", type=int, default=16, help="of the prompt lengths (default: 16 tokens)")
    parser.add_argument("--longest", type=int, default=2000, help="of the prompt lengths (default: 2000 tokens)")
    parser.add_argument("--most", type=int, default=48, help="image tokens of a picture's side (default: 48)")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    model = ModelSettings(
        path=options.model,
        device=options.device,
        quantization=options.quantization,
        context_tokens=CONTEXT_TOKENS,
    )
    replica = EngineReplica(model, EngineSettings(max_slots=64), MetricsSettings(), SilentMeter())
    rng = np.random.default_rng(0)
    for turn in range(5):
        first_token_ms(replica, of_length(rng, f"warm-up {turn}", 300 + 300 * turn))
    lengths = rng.choice(np.arange(options.shortest, options.longest), options.sizes, replace=False)
    sides = rng.integers(2, options.most + 1, (options.sizes * 2, 2))
    pictures = list({(int(rows), int(columns)) for rows, columns in sides})[: options.sizes]
    report = header("new_sizes", ["torch", "transformers"]) | {
        "quantization": options.quantization,
        "device": replica.card.device,
        "lengths": measure(replica, lambda name, size: of_length(rng, name, size), [int(one) for one in lengths]),
        "pictures": measure(replica, lambda name, size: of_picture(rng, name, *size), pictures),
    }
    replica.close()
    if options.save:
        save(report, "" if options.quantization == "none" else f"-{options.quantization}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
