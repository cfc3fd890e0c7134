"""With drafts, both runners compute the answers that they compute token by token, in float32."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Glm4vForConditionalGeneration

from serve_app.contracts import Constraint, Prompt, Sampling
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.families.glm4v import Glm4vAdapter
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.paged_runner import PagedRunner
from serve_app.engine.model.pages import PagePool, pages_for
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.slot_runner import SlotRunner
from serve_app.engine.model.trunk import Trunk
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.metrics import SilentMeter
from tests.engine.conftest import BYTES, new_sequence, prompt

SCHEMA = {
    "type": "object",
    "properties": {
        "temperature": {"type": "integer", "minimum": 0, "maximum": 99},
        "thermometer": {"enum": ["mercury", "merry", "digital"]},
        "readings": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        "note": {"type": "string", "maxLength": 5},
    },
    "required": ["temperature", "thermometer", "readings", "note"],
    "additionalProperties": False,
}
CONTEXT_TOKENS, SLOTS = 1024, 4
RULES = {
    "greedy": Sampling(max_tokens=130, temperature=0.0),
    "seeded": Sampling(max_tokens=130, temperature=1.0, seed=5, top_p=0.95),
    "penalties": Sampling(max_tokens=130, temperature=0.8, seed=5, repetition_penalty=1.2, frequency_penalty=0.5),
    "few tokens": Sampling(max_tokens=85, temperature=1.0, seed=7),
}


@pytest.fixture(scope="module")
def adapter(tiny_model: Path) -> Glm4vAdapter:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return Glm4vAdapter(model, tiny_model, torch.float32, torch.device("cpu"))


def make(adapter: Glm4vAdapter, paged: bool) -> tuple[Runner, PagePool | None]:
    if not paged:
        return SlotRunner(adapter, SLOTS, CONTEXT_TOKENS), None
    pages = SLOTS * pages_for(CONTEXT_TOKENS) + 1
    trunk = Trunk(adapter.text_layers, adapter.device)
    return PagedRunner(adapter, trunk, SLOTS, pages, CONTEXT_TOKENS), PagePool(pages)


def prompts(rule: Sampling) -> list[Prompt]:
    rng = np.random.default_rng(3)
    held = Constraint("json_schema", json.dumps(SCHEMA))
    asked = [prompt(f"p{index}", rng, rule, pictures=index % 2, text=int(rng.integers(1, 90))) for index in range(6)]
    return [replace(one, constraint=held if index != 3 else None) for index, one in enumerate(asked)]


def answers(adapter: Glm4vAdapter, paged: bool, rule: Sampling, drafts: bool) -> tuple[list[list[int]], int]:
    """Token ids of each answer, and the number of forward passes that computed drafts."""
    runner, pool = make(adapter, paged)
    loop = EngineLoop(runner, BYTES, Scheduler(SLOTS, 64, 9, pool), FeatureCache(2**20), SilentMeter())
    runner.drafts_save_time = lambda rows, drafts, with_prompts: True  # type: ignore[method-assign]
    forward, drafted = runner.forward, 0

    def counted(rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        nonlocal drafted
        drafted += any(chunk.drafted for chunk in chunks)
        return forward(rows, chunks)

    runner.forward = counted  # type: ignore[method-assign]
    sequences = [loop.admission.admit(one, lambda event: None) for one in prompts(rule)]
    for one in sequences:
        if not drafts:
            one.drafter = None
        loop.submit(one)
    while loop.step():
        pass
    loop.admission.grammars.close()
    assert loop.slots_used() == 0
    assert pool is None or pool.used == 0
    return [one.generated for one in sequences], drafted


@pytest.mark.parametrize("paged", [False, True], ids=["slots", "pages"])
@pytest.mark.parametrize("rule", RULES)
def test_answers_are_those_without_drafts(adapter: Glm4vAdapter, paged: bool, rule: str) -> None:
    plain, none = answers(adapter, paged, RULES[rule], drafts=False)
    drafted, some = answers(adapter, paged, RULES[rule], drafts=True)
    assert drafted == plain
    assert (none, some > 10) == (0, True)


def drafts(lengths: list[int]) -> list[Chunk]:
    one = new_sequence("a", Sampling(max_tokens=50))
    return [Chunk(one, 1, 1 + length, (7,) * length) for length in lengths]


def test_over_slots_a_draft_pays_alone_and_not_for_one_row_of_many(adapter: Glm4vAdapter) -> None:
    runner, _ = make(adapter, paged=False)
    assert runner.drafts_save_time(1, drafts([9]), with_prompts=False)
    assert runner.drafts_save_time(8, drafts([4] * 8), with_prompts=False)
    assert not runner.drafts_save_time(16, drafts([4]), with_prompts=False)


def test_over_pages_a_draft_pays_beside_prompts_and_not_for_one_row_of_many(adapter: Glm4vAdapter) -> None:
    runner, _ = make(adapter, paged=True)
    assert runner.drafts_save_time(1, drafts([2]), with_prompts=False)
    assert not runner.drafts_save_time(8, drafts([4]), with_prompts=False)
    assert runner.drafts_save_time(8, drafts([4]), with_prompts=True)
    assert not runner.drafts_save_time(64, drafts([2] * 12), with_prompts=True)
