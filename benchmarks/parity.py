"""Does this project's GLM-4V-9B compute the same numbers as the original code of 2024?

A folder holds a checkpoint in the original layout (config.json, model.safetensors or shards) and, in
expected.safetensors, what the original code gives for one picture and two prompts: vision features, logits of every
prompt token, and greedy tokens with the logits they were drawn from. The same is computed here in float32 by the
project's loader, tower and engine loop. The report says `ok` if no number differs by more than 2e-4 and all tokens
are equal.

    python -m benchmarks.parity DIR

The last line on stdout is one JSON object; the exit status is 0 only if it says ok.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.weights import load_model
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.errors import InvalidRequest, ServiceError
from serve_app.metrics import SilentMeter
from serve_app.settings import ModelSettings

TOLERANCE = 2e-4
NEEDED = (
    "input_ids",
    "pixel_values",
    "vision_features",
    "logits",
    "greedy_ids",
    "text_only_input_ids",
    "text_only_logits",
)
DIGEST = "the picture"

Tensors = dict[str, torch.Tensor]


class RecordingRunner(SlotRunner):
    """A runner that records the logits it returns and the sequence they belong to."""

    def __init__(self, model: Glm4v9bAdapter, context_tokens: int) -> None:
        super().__init__(model, 1, context_tokens)
        self.steps: list[torch.Tensor] = []
        self.sequence: Sequence | None = None

    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        self.sequence = rows[0] if rows else chunks[0].sequence
        logits = super().forward(rows, chunks)
        self.steps += [row.clone() for row in logits[:1]]
        return logits


def read_expected(folder: Path) -> Tensors:
    """The outputs of the original code; raises `InvalidRequest` if they are missing or not readable."""
    try:
        expected: Tensors = load_file(folder / "expected.safetensors")
    except (OSError, SafetensorError) as error:
        raise InvalidRequest(f"expected.safetensors could not be read: {error}.") from error
    if missing := [name for name in NEEDED if name not in expected]:
        raise InvalidRequest(f"expected.safetensors lacks {', '.join(missing)}.")
    if rows := [name for name in NEEDED if name != "greedy_ids" and len(expected[name]) != 1]:
        raise InvalidRequest(f"expected.safetensors holds more than one sequence in {', '.join(rows)}.")
    return expected


def load_original(folder: Path) -> Glm4v9bAdapter:
    """The folder's model in float32 on the CPU, by the project's own loader."""
    model = load_model(folder, ModelSettings(path=str(folder), device="cpu", dtype="float32"))
    if not isinstance(model, Glm4v9bAdapter):
        raise InvalidRequest(f"{folder.name} holds a model of type {model.model_type}, not a GLM-4V-9B.")
    return model


def compare(model: Glm4v9bAdapter, expected: Tensors) -> dict[str, Any]:
    """The report: greatest differences, whether the tokens are equal, and `ok`."""
    new_ids = expected["greedy_ids"].flatten().tolist()
    with torch.inference_mode():
        features = model.model.visual(expected["pixel_values"].to(model.device, model.dtype))
    vision = difference("vision_features", features, expected)
    # The answer has the length of the expected one: the original loop generated a fixed number of tokens.
    sampling = Sampling(max_tokens=len(new_ids), temperature=0.0, ignore_eos=True)
    with_picture = picture_prompt(model, expected["input_ids"][0].tolist(), sampling)
    text_only = Prompt(
        "text", expected["text_only_input_ids"][0].numpy().astype(np.int32), (), sampling, 600.0, raw=True
    )
    runner = RecordingRunner(model, max(len(with_picture.token_ids), len(text_only.token_ids)) + len(new_ids))
    text_only_logits = difference("text_only_logits", prompt_logits(runner, text_only, None)[None], expected)
    logits = difference("logits", prompt_logits(runner, with_picture, features[0])[None], expected)
    drawn = answer(runner, with_picture, features[0])
    if "greedy_logits" in expected:  # comparable only as long as the tokens before are equal
        equal_tokens = next((at for at in range(len(drawn)) if drawn[:at] != new_ids[:at]), len(drawn))
        theirs = {"greedy_logits": expected["greedy_logits"][:equal_tokens]}
        logits = max(logits, difference("greedy_logits", torch.stack(runner.steps[:equal_tokens]), theirs))
    greatest = {
        "vision_max_abs_diff": vision,
        "logits_max_abs_diff": logits,
        "text_only_logits_max_abs_diff": text_only_logits,
    }
    equal = drawn == new_ids
    report: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in greatest.items()}
    return report | {
        "greedy_equal": equal,
        "ok": equal and all(value <= TOLERANCE for value in greatest.values()),
    }


def difference(name: str, ours: torch.Tensor, expected: Tensors) -> float:
    """Greatest absolute difference; infinite if ours is not finite."""
    theirs = expected[name].float()
    if ours.shape != theirs.shape:
        shapes = f"{tuple(theirs.shape)}; the model gives {tuple(ours.shape)}."
        raise InvalidRequest(f"{name} in expected.safetensors has the shape {shapes}")
    greatest = float((ours.cpu() - theirs).abs().max())
    return greatest if math.isfinite(greatest) else math.inf


def picture_prompt(model: Glm4v9bAdapter, ids: list[int], sampling: Sampling) -> Prompt:
    """The prompt with one placeholder for each patch of the picture; the original code has one in all."""
    shape = model.model.visual.shape
    pictures = [at for at in range(len(ids) - 2) if (ids[at], ids[at + 2]) == model.image_marker_ids]
    if len(pictures) != 1:
        raise InvalidRequest(f"input_ids in expected.safetensors holds {len(pictures)} pictures, not one.")
    patch = pictures[0] + 1
    expanded = [*ids[:patch], *[ids[patch]] * (shape.tokens - 2), *ids[patch + 1 :]]
    pixels = np.zeros((shape.image_size, shape.image_size, 3), dtype=np.uint8)  # not read: its features are cached
    picture = Picture(pixels, DIGEST, shape.tokens, (shape.image_size, shape.image_size))
    return Prompt("picture", np.array(expanded, dtype=np.int32), (picture,), sampling, 600.0, raw=True)


def prompt_logits(runner: SlotRunner, prompt: Prompt, features: torch.Tensor | None) -> torch.Tensor:
    """Logits (tokens, vocab) after every token of a prompt."""
    positions, _ = runner.positions(prompt)
    tokens = len(prompt.token_ids)
    with torch.inference_mode():
        return runner.model.head(runner.hidden(prompt, features, positions, slot=0, start=0, stop=tokens))


def answer(runner: RecordingRunner, prompt: Prompt, features: torch.Tensor) -> list[int]:
    """The tokens that the engine's loop generates."""
    cache = FeatureCache(features.nbytes)
    cache.put(DIGEST, features)
    loop = EngineLoop(
        runner,
        Vocabulary([b""] * runner.vocab_size),
        Scheduler(1, len(prompt.token_ids), 1),
        cache,
        SilentMeter(),
    )
    failures: list[ServiceError] = []
    loop.submit(
        loop.admission.admit(prompt, lambda event: failures.append(event) if isinstance(event, ServiceError) else None)
    )
    while loop.step():
        pass
    if failures:
        raise failures[0]
    assert runner.sequence is not None
    return list(runner.sequence.generated)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args(arguments).folder
    try:
        report = compare(load_original(folder), read_expected(folder))
    except ServiceError as error:
        sys.exit(f"{folder}: {error}")
    print(json.dumps(report))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
