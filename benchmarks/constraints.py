"""What does it cost to hold answers to a JSON Schema: a step of 8 rows, all held against all free?

Two engines over the same weights step in turns, so that both meet the same machine: in one, all rows
are held to a schema; in the other, none. Same prompts, temperature 1, seeds of their own, ends ignored.
Medians of whole engine steps (decode, masks, sampling, telling), warm-up apart, over all rounds; the cost
is the median of the difference between neighbouring steps. Goal: below 5 %.

    python -m benchmarks.constraints                              # the demo model on the CPU
    python -m benchmarks.constraints --shape 9b --device cuda     # random weights, 151,552 tokens

The 9B shape has no tokenizer here; its vocabulary is composed: 151,329 random byte strings that are as long
as GLM's tokens and begin alike as words do (English syllables, numbers, punctuation, Chinese characters).

The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmarks.engine import random_model
from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import Constraint, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.model_runner import Runner
from serve_app.engine.model.weights import load
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Scheduler
from serve_app.metrics import SilentMeter
from serve_app.settings import ModelSettings

ROWS = 8
SYLLABLES = [
    "the",
    "in",
    "er",
    "an",
    "re",
    "on",
    "at",
    "en",
    "or",
    "es",
    "ti",
    "te",
    "is",
    "it",
    "al",
    "ar",
    "st",
    "to",
]
ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "colour": {"enum": ["red", "green", "blue", "红", "绿"]},
        "count": {"type": "integer"},
        "where": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"}, "maxItems": 4}]},
        "on": {"type": "boolean"},
    },
    "required": ["name", "colour", "count", "where", "on"],
    "additionalProperties": False,
}
ENDLESS = {"type": "array", "items": ITEM, "minItems": 10_000}  # so that no row ends while it is measured


def composed_vocabulary(size: int, words: int = 151_329) -> Vocabulary:
    """Random tokens of realistic lengths, every single byte among them; the rest of the ids is padding."""
    rng = random.Random(0)
    tokens = dict.fromkeys(bytes([byte]) for byte in range(256))
    while len(tokens) < words:
        kind = rng.random()
        if kind < 0.65:
            word = rng.choice(["", " "]) + "".join(rng.choices(SYLLABLES, k=rng.randint(1, 5)))
        elif kind < 0.7:
            word = "".join(rng.choices("0123456789", k=rng.randint(1, 3)))
        elif kind < 0.77:
            word = "".join(rng.choices("{}[]()<>\"':;,./\\!?-_=+*&^%$#@~` \n\t", k=rng.randint(2, 4)))
        else:
            word = "".join(chr(rng.randint(0x4E00, 0x8FFF)) for _ in range(rng.randint(1, 3)))
        tokens[word.encode()] = None
    return Vocabulary([*tokens, *[b""] * (size - words)])


def engine(runner: Runner, vocabulary: Vocabulary) -> EngineLoop:
    return EngineLoop(runner, vocabulary, Scheduler(ROWS, 2048, ROWS), FeatureCache(0), SilentMeter())


def prompts(round_: int, new_tokens: int, constraint: Constraint | None) -> list[Prompt]:
    made = []
    for row in range(ROWS):
        rng = np.random.default_rng([round_, row])
        sampling = Sampling(max_tokens=new_tokens, temperature=1.0, seed=row, ignore_eos=constraint is None)
        token_ids = rng.integers(0, 1000, 64).astype(np.int32)
        made.append(Prompt(f"{round_}-{row}", token_ids, (), sampling, 3600.0, constraint=constraint))
    return made


def steps_in_turns(free: EngineLoop, held: EngineLoop) -> tuple[list[float], list[float]]:
    """Seconds of each step of both engines until their answers are complete; the first step takes in the prompts."""
    times: tuple[list[float], list[float]] = ([], [])
    for loop in (free, held):
        loop.step()
    place = 0
    while free.slots_used() == held.slots_used() == ROWS:
        order = ((free, 0), (held, 1)) if place % 2 else ((held, 1), (free, 0))
        for loop, which in order:
            before = time.perf_counter()
            loop.step()
            times[which].append(time.perf_counter() - before)
        place += 1
    for loop in (free, held):
        while loop.step():
            pass
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["demo", "tiny", "9b"], default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=100)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    model: Any
    if arguments.shape == "demo":
        settings = ModelSettings(device=arguments.device)
        loaded = load(checkpoint_folder(settings), settings)
        model, vocabulary = loaded.model, loaded.vocabulary
    else:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = random_model(arguments.shape == "tiny", device, dtype, "none")
        vocabulary = composed_vocabulary(model.vocab_size)
    runners = [Runner(model, ROWS, 64 + arguments.new_tokens) for _ in range(2)]
    for runner in runners:
        runner.capture_graphs()
    free, held = (engine(runner, vocabulary) for runner in runners)
    constraint = Constraint("json_schema", json.dumps(ENDLESS))
    started = time.perf_counter()
    held.admission.grammars.tokenizer()
    tokenizer_s = time.perf_counter() - started
    compiled: list[float] = []
    all_free: list[float] = []
    all_held: list[float] = []

    def failed(event: object) -> None:
        if isinstance(event, Exception):
            raise event

    for round_ in range(arguments.rounds + 1):
        for loop, held_to in ((free, None), (held, constraint)):
            for prompt in prompts(round_, arguments.new_tokens, held_to):
                before = time.perf_counter()
                loop.submit(prompt, failed)
                if held_to is not None:
                    compiled.append(time.perf_counter() - before)
        of_free, of_held = steps_in_turns(free, held)
        if round_ > 0:  # the first one is the warm-up
            all_free += of_free
            all_held += of_held
            ratio = statistics.median(of_held) / statistics.median(of_free)
            print(f"round {round_}: {len(of_free)} steps, {(ratio - 1) * 100:+.2f} %", flush=True)
    held.admission.grammars.close()
    free_ms = statistics.median(all_free) * 1e3
    difference_ms = statistics.median(b - a for a, b in zip(all_free, all_held, strict=True)) * 1e3
    report = {
        "benchmark": "constraints",
        "shape": {"demo": "demo", "tiny": "tiny", "9b": "GLM-4.1V-9B"}[arguments.shape],
        "vocabulary": {"size": model.vocab_size, "of": "the checkpoint" if arguments.shape == "demo" else "composed"},
        "batch": ROWS,
        "steps": len(all_free),
        "free_ms_per_step": round(free_ms, 3),
        "held_ms_per_step": round(statistics.median(all_held) * 1e3, 3),
        "difference_ms": round(difference_ms, 3),
        "cost_percent": round(difference_ms / free_ms * 100, 2),
        "first_compile_ms": round(compiled[0] * 1e3, 1),
        "cached_compile_ms": round(statistics.median(compiled[1:]) * 1e3, 2),
        "tokenizer_s": round(tokenizer_s, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "transformers", "llguidance")},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
