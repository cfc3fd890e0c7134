"""The three supported checkpoints, counted once."""

import pytest

from serve_app.plan.checkpoints import CONFIGS, Checkpoint, read_checkpoint

CHECKPOINTS = {name: read_checkpoint(name) for name in CONFIGS}


@pytest.fixture
def flash() -> Checkpoint:
    return CHECKPOINTS["glm-4.6v-flash"]


@pytest.fixture
def original() -> Checkpoint:
    return CHECKPOINTS["glm-4v-9b"]
