"""The environment of Ray's processes: Ray knows every name, and time-outs fit the service's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from serve_app.ray_flags import CLUSTER, LONGEST_ANSWER_S
from serve_app.settings import Settings

RAY = Path(ray.__file__).parent
BY_RAYS_CORE = {name.removeprefix("RAY_") for name in CLUSTER if name.startswith("RAY_") and name[4].islower()}


@pytest.fixture(scope="module")
def serve_constants() -> str:
    return (RAY / "serve/_private/constants.py").read_text()


@pytest.mark.parametrize("name", sorted(name for name in CLUSTER if name.startswith("RAY_SERVE_")))
def test_serve_reads_the_variable(name: str, serve_constants: str):
    assert f'"{name}"' in serve_constants


def test_rays_core_reads_its_variables():
    core = (RAY / "_raylet.so").read_bytes()
    assert BY_RAYS_CORE
    assert {name for name in BY_RAYS_CORE if name.encode() not in core} == set()


def test_the_longest_answer_is_the_settings_own():
    assert Settings().http.request_timeout_s == LONGEST_ANSWER_S


@pytest.mark.parametrize("name", ["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S", "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])
def test_haproxy_outlasts_the_longest_answer(name: str):
    assert int(CLUSTER[name]) > LONGEST_ANSWER_S
