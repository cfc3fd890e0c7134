"""The three supported checkpoints, counted once."""

import pytest

from serve_app.plan.checkpoints import KNOWN, Checkpoint, checkpoint

CHECKPOINTS = {name: checkpoint(name) for name in KNOWN}


@pytest.fixture
def flash() -> Checkpoint:
    return CHECKPOINTS["glm-4.6v-flash"]


@pytest.fixture
def original() -> Checkpoint:
    return CHECKPOINTS["glm-4v-9b"]
