"""How the time of a computation is divided among the sequences of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from serve_app.engine.sequence import charge_device_time
from tests.engine.conftest import Bench


def test_a_step_is_charged_by_tokens_and_the_shares_add_up(bench_in_parts: Callable[..., Bench]) -> None:
    b = bench_in_parts()
    for name in ("row", "other row", "prompt"):
        b.ask(name)
    b.loop.step()
    row, other, prompt = b.scheduler.running
    charge_device_time([(row, 1), (other, 1), (prompt, 62)], 0.032)
    assert [row.device_ms, other.device_ms, prompt.device_ms] == pytest.approx([0.5, 0.5, 31.0])
    charge_device_time([(row, 1)], 0.002)
    assert row.device_ms == pytest.approx(2.5)
    charge_device_time([], 1.0)


def test_a_finished_answer_has_its_share_of_the_time(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.ask("a", max_tokens=3)
    b.run(seconds_a_step=1.0)
    assert b.finished("a").device_ms >= 0.0
