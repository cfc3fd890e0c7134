"""What does GLM-4V-9B take in its full shape: memory and time to load, to see a picture, to answer?

Random weights in the exact shape of THUDM/glm-4v-9b (13.9 B parameters; glm-4v-9b.config.json beside this
file), written once to FOLDER in the original layout as bfloat16 shards (26 GB) and read by the project's
own loader: in NF4 with the tower whole, in NF4 all over, and whole. A request is one 1120x1120 picture
(1602 tokens) and 16 text tokens, greedy. Encoding and prefill are medians of single runs; a decode step is
the engine's loop, sampling included, at each batch size.

    python -m benchmarks.glm4v_9b --folder /tmp/glm-4v-9b
    python -m benchmarks.glm4v_9b --folder /tmp/tiny --tiny --device cpu        # checks that the script works

The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.engine import measure
from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.glm4v_9b import Glm4v9b, empty_network, original_name
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.model_runner import Runner
from serve_app.engine.model.quantization import count_parameters
from serve_app.engine.model.shards import original_shapes
from serve_app.engine.model.weights import load_model
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import SilentMeter
from serve_app.settings import ModelSettings

MODES: dict[str, dict[str, Any]] = {
    "nf4, tower whole": {"quantization": "nf4"},
    "nf4": {"quantization": "nf4", "quantize_vision": True},
    "bfloat16": {},
}
TINY = {"num_layers": 2, "hidden_size": 128, "ffn_hidden_size": 256, "kv_channels": 32, "num_attention_heads": 4}
TINY_VISION = {"num_hidden_layers": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128}
TEXT_TOKENS = 16
SHARD_BYTES = 2 * 10**9
GIB = 2**30


def shape(tiny: bool) -> dict[str, Any]:
    """The config.json of the full shape, or of a small one with pictures of 112x112."""
    config: dict[str, Any] = json.loads(Path(__file__).with_name("glm-4v-9b.config.json").read_text())
    if tiny:
        vision = config["vision_config"] | TINY_VISION | {"image_size": 112, "num_positions": 65}
        config |= TINY | {"vision_config": vision}
    return config


def write_checkpoint(folder: Path, config: dict[str, Any], device: torch.device) -> None:
    """Random weights in shards with an index; left as it is if it is there."""
    if (folder / "config.json").is_file() and json.loads((folder / "config.json").read_text()) == config:
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def close() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, sizes in original_shapes(empty_network(config), original_name).items():
        if "norm" in name and name.endswith(".weight"):
            values = torch.ones(sizes, dtype=torch.bfloat16)
        else:
            values = torch.empty(sizes, dtype=torch.bfloat16, device=device).normal_(std=0.02).cpu()
        if shard and sum(tensor.nbytes for tensor in shard.values()) + values.nbytes > SHARD_BYTES:
            close()
        shard[name] = values
    close()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(config))  # last: a folder with it is complete


def prompts(model: Glm4v9b, count: int, new_tokens: int) -> list[Prompt]:
    """Requests with a picture each, all different."""
    tower = model.model.visual.shape
    begin, end = model.marks
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        pixels = rng.integers(0, 255, (tower.image_size, tower.image_size, 3), dtype=np.uint8)
        picture = Picture(pixels, f"{count}-{index}", tower.tokens, (tower.image_size, tower.image_size))
        text = rng.integers(0, min(model.vocab_size, begin), TEXT_TOKENS).tolist()
        token_ids = [*text[:4], begin, *[0] * (tower.tokens - 2), end, *text[4:]]
        sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        prompt = Prompt(f"{count}-{index}", np.array(token_ids, dtype=np.int32), (picture,), sampling, 600.0, raw=True)
        made.append(prompt)
    return made


def median_ms(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Median wall time, the first run apart."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken[1:]), 2)


def run(folder: Path, settings: ModelSettings, batches: list[int], new_tokens: int, times: int) -> dict[str, Any]:
    """Load in one mode and measure."""
    gc.collect()
    memory = _Memory()
    started = time.perf_counter()
    model = load_model(folder, settings)
    assert isinstance(model, Glm4v9b)
    report: dict[str, Any] = {
        "load_s": round(time.perf_counter() - started, 1),
        "weights_gib": memory.allocated(),
        "peak_loading_gib": memory.peak(),
        "parameters": count_parameters(model.model),
    }
    one = prompts(model, 1, new_tokens)[0]
    tokens = len(one.token_ids)
    runner = Runner(model, max(batches), tokens + new_tokens)
    runner.check_numbers()
    runner.capture_graphs()
    features = runner.encode(one.pictures[0])
    positions, _ = runner.positions(one)

    def prefill() -> None:
        hidden = runner.hidden(one, features, positions, slot=0, start=0, stop=tokens)
        with torch.inference_mode():
            model.head(hidden[-1:])

    report["encode_ms"] = median_ms(lambda: runner.encode(one.pictures[0]), model.device, times)
    report["prompt_tokens"] = tokens
    report["prefill_ms"] = median_ms(prefill, model.device, times)
    report["batches"] = {}
    for count in batches:
        loop = EngineLoop(
            runner,
            Vocabulary([b"x"] * model.vocab_size),
            Scheduler(count, tokens, count),
            FeatureCache(0),
            SilentMeter(),
        )
        measure(loop, prompts(model, count, 4))  # warm-up
        report["batches"][str(count)] = measure(loop, prompts(model, count, new_tokens))
    report["peak_gib"] = memory.peak()
    return report


class _Memory:
    """GiB that torch took on the GPU since the start of a mode; None on a CPU."""

    def __init__(self) -> None:
        self._gpu = torch.cuda.is_available()
        if self._gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()  # what the mode before has left behind

    def allocated(self) -> float | None:
        return round((torch.cuda.memory_allocated() - self._before) / GIB, 2) if self._gpu else None

    def peak(self) -> float | None:
        return round((torch.cuda.max_memory_allocated() - self._before) / GIB, 2) if self._gpu else None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the checkpoint is written, or lies already")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--times", type=int, default=5, help="runs behind a median")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    started = time.perf_counter()
    write_checkpoint(asked.folder, shape(asked.tiny), device)
    print(f"checkpoint written in {time.perf_counter() - started:.0f} s", flush=True)
    modes = {}
    for mode in asked.modes:
        settings = ModelSettings(path=str(asked.folder), device=asked.device, dtype="bfloat16", **MODES[mode])
        modes[mode] = run(asked.folder, settings, asked.batches, asked.new_tokens, asked.times)
        print(mode, json.dumps(modes[mode]), flush=True)
    report = {
        "benchmark": "glm4v_9b",
        "shape": "tiny" if asked.tiny else "GLM-4V-9B",
        "modes": modes,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
