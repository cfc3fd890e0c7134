"""How long are the engine's first token and decode step in the 9B shape, beside vLLM and transformers?

Random weights in the exact shape of GLM-4.1V-9B and GLM-4.6V-Flash (the speed does not depend on their values), one
1120x1120 picture and 208 text tokens a request (1808 tokens), 128 new tokens, greedy, on one GPU. All requests of a
batch are submitted at once; first token and latency are medians over the batch's requests. `longest_step_ms` is the
longest pause of a stream meanwhile; the follow-up asks once more about one picture of the batch.

    python -m benchmarks.engine --batches 1 8 32 --quantization none
    python -m benchmarks.engine --batches 1 8 --peer vllm transformers
    python -m benchmarks.engine --tiny --device cpu        # checks that the script works

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.server import vllm_environment
from benchmarks.random_model import IMAGE_TOKEN, random_module
from benchmarks.report import ROOT, header
from serve_app.contracts import Delta, Finished, Picture, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.replica import build_runner
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import SilentMeter


def random_model(tiny: bool, device: torch.device, dtype: torch.dtype, quantization: str) -> Glm4vAdapter:
    """Random weights on the device; quantized weights are saved as a checkpoint and loaded by the service's loader."""
    folder = Path(tempfile.mkdtemp())
    processor = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    model = random_module(tiny, device, dtype)
    model.generation_config.eos_token_id = []
    if quantization == "none":
        return Glm4vAdapter(model.eval(), folder, dtype, device)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    adapter = Glm4vAdapter.load(folder, {}, dtype, device, Quantization(quantization))  # type: ignore[arg-type]
    adapter.stop_ids = frozenset()
    return adapter


def prompts(count: int, side: int, text_tokens: int, new_tokens: int, name: str) -> list[Prompt]:
    """`count` prompts with a different picture each; `side` is the picture's width and height in pixels."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    batch = []
    for index in range(count):
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        picture = Picture(pixels, f"{name}-{index}", side * side // 784, (side, side))
        text = rng.integers(0, 151329, text_tokens)
        token_ids = np.concatenate([text[:5], np.full(picture.tokens, IMAGE_TOKEN), text[5:]]).astype(np.int32)
        sampling = Sampling(max_tokens=new_tokens, temperature=0.0)
        batch.append(Prompt(f"{name}-{index}", token_ids, (picture,), sampling, 600.0))
    return batch


def measure(loop: EngineLoop, batch: list[Prompt]) -> dict[str, float]:
    """Submit a batch of prompts and step the engine until all are answered."""
    started = time.perf_counter()
    first: dict[str, float] = {}
    finished: dict[str, float] = {}
    for prompt in batch:

        def sink(event: object, name: str = prompt.id) -> None:
            if isinstance(event, Delta):
                first.setdefault(name, time.perf_counter() - started)
            elif isinstance(event, Finished):
                finished[name] = time.perf_counter() - started
            elif isinstance(event, Exception):
                raise event

        loop.submit(loop.admission.admit(prompt, sink))
    steps: list[float] = []  # while all decode
    gaps: list[float] = []  # steps while any decodes
    while True:
        before = time.perf_counter()
        all_decoding = len(first) == len(batch)
        if not loop.step():
            break
        if first:
            gaps.append(time.perf_counter() - before)
        if all_decoding:
            steps.append(time.perf_counter() - before)
    tokens = sum(prompt.sampling.max_tokens or 0 for prompt in batch)
    return {
        "first_token_s": round(statistics.median(first.values()), 4),
        "latency_s": round(statistics.median(finished.values()), 3),
        "ms_per_step": round(statistics.median(steps) * 1e3, 2),
        "longest_step_ms": round(max(gaps) * 1e3, 1),
        "tokens_per_s": round(tokens / max(finished.values()), 1),
    }


def measure_peer(peer: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same batches in a process of its own; a peer generates a batch in one call: first tokens are the batch's."""
    env = dict(os.environ)
    if peer == "vllm":
        env |= vllm_environment(arguments.vllm_packages)
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    command = [sys.executable, "-m", "benchmarks.peers.offline", peer, "--new-tokens", str(arguments.new_tokens)]
    command += ["--side", str(arguments.side), "--batches", *map(str, arguments.batches)]
    command += ["--tiny"] if arguments.tiny else []
    output = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    results: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(peer, results, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--quantization", choices=["none", "fp8", "nf4", "int8"], default="none")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prefill-tokens", type=int, default=1024, help="prompt tokens a step")
    parser.add_argument("--side", type=int, default=1120)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="decode without CUDA graphs")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--peer", nargs="*", default=[], choices=["vllm", "transformers"], help="measured too")
    parser.add_argument("--vllm-packages", default="", help="folder in which vLLM is installed (default: this Python)")
    arguments = parser.parse_args()
    if "vllm" in arguments.peer:
        vllm_environment(arguments.vllm_packages)  # raises if it is not installed
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = random_model(arguments.tiny, device, dtype, arguments.quantization)
    weights_gib = torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    slots = max(arguments.batches)
    results = {}
    slots, runner, pool = build_runner(model, slots, 2048, 0)
    started = time.perf_counter()
    if not arguments.eager:
        runner.capture_graphs()
    capture_s = time.perf_counter() - started
    for count in arguments.batches:
        loop = EngineLoop(
            runner,
            Vocabulary([b"x"] * model.vocab_size),
            Scheduler(slots, arguments.prefill_tokens, count, pool),
            FeatureCache(2**28),
            SilentMeter(),
        )
        for index in range(3):  # warm-up
            measure(loop, prompts(1, arguments.side, 208, 8, f"warm-up {count} {index}"))
        asked = prompts(count, arguments.side, 208, arguments.new_tokens, str(count))
        results[str(count)] = measure(loop, asked)
        again = [replace(p, id=f"{p.id} again", token_ids=np.append(p.token_ids, p.token_ids[-9:])) for p in asked[:1]]
        results[str(count)]["follow_up_first_token_s"] = measure(loop, again)["first_token_s"]
        print(count, results[str(count)], flush=True)
        del loop
    del runner, pool, model  # peers need the memory
    report = header("engine", ["torch", "transformers"]) | {
        "shape": "tiny" if arguments.tiny else "GLM-4.1V-9B",
        "quantization": arguments.quantization,
        "weights_gib": round(weights_gib, 2),
        "decode": "eager" if arguments.eager or device.type == "cpu" else "graphs",
        "capture_s": round(capture_s, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "batches": results,
        "peers": {peer: measure_peer(peer, arguments) for peer in arguments.peer},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
