"""Answers held to a form on a CUDA device: masks, forced tokens and captured steps together."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve_app.contracts import Constraint, Delta, Finished, Sampling
from serve_app.engine.replica import EngineReplica
from serve_app.metrics import SilentMeter
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings
from tests.engine.conftest import prompt, write_tiny_model

pytestmark = pytest.mark.gpu

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "number"}, "part": {"type": "string"}},
    "required": ["ok", "n", "part"],
    "additionalProperties": False,
}


async def test_a_random_model_writes_json_that_fits_its_schema(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    replica = EngineReplica(
        ModelSettings(path=str(folder), device="cuda"), EngineSettings(max_slots=8), MetricsSettings(), SilentMeter()
    )
    rng = np.random.default_rng(0)
    try:
        for seed in range(20):
            free = prompt(f"q{seed}", rng, Sampling(max_tokens=120, temperature=1.0, seed=seed), pictures=1, text=9)
            held = replace(free, constraint=Constraint("json_schema", json.dumps(SCHEMA)))
            events = [event async for together in replica.generate(held) for event in together]
            assert isinstance(events[-1], Finished)
            said = json.loads("".join(event.text for event in events if isinstance(event, Delta)))
            assert {key: type(value) for key, value in said.items() if key != "n"} == {"ok": bool, "part": str}
            assert isinstance(said["n"], (int, float))
    finally:
        replica.close()
