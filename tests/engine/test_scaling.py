"""The autoscaling policy: what a replica reports, how many replicas that asks for, and what Serve adds to it."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve_app.contracts import Sampling
from serve_app.engine.scaling import (
    FIRST_GUESS_TOKENS,
    KV_DEMAND,
    REMEMBERED_ANSWERS,
    TOKENS_IN_FLIGHT,
    TOLERANCE,
    AnswerLengths,
    replicas_for_load,
    tokens_ahead,
)
from tests.engine.conftest import Bench, new_sequence

TOKENS, KV_USE = 1000.0, 0.8
POLICY = replicas_for_load(TOKENS, KV_USE)
CONFIG = {
    "policy_function": "serve_app.engine.scaling:replicas_for_load",
    "policy_kwargs": {"target_tokens_in_flight": TOKENS, "target_kv_use": KV_USE},
}


@dataclass(frozen=True)
class Context:
    """A deployment as Serve shows it to the policy; replica `i` reports `tokens[i]` and `kv[i]`, or nothing (None)."""

    target: int
    tokens: tuple[float | None, ...] = ()
    kv: tuple[float | None, ...] | None = None
    requests: float = 0.0
    least: int = 0
    most: int = 100

    @property
    def target_num_replicas(self) -> int:
        return self.target

    @property
    def running_replicas(self) -> list[int]:
        return list(range(len(self.tokens)))

    @property
    def total_num_requests(self) -> float:
        return self.requests

    @property
    def aggregated_metrics(self) -> dict[str, dict[int, float]] | None:
        kv = self.kv or tuple(None if tokens is None else 0.0 for tokens in self.tokens)
        by_name = {TOKENS_IN_FLIGHT: self.tokens, KV_DEMAND: kv}
        return {name: {i: v for i, v in enumerate(of) if v is not None} for name, of in by_name.items()}

    @property
    def capacity_adjusted_min_replicas(self) -> int:
        return self.least

    @property
    def capacity_adjusted_max_replicas(self) -> int:
        return self.most


def wanted(context: Context) -> int:
    count, state = POLICY(context)
    assert state == {}, "delays are Serve's state, and this policy has none"
    return count


loads = st.floats(0, 50 * TOKENS)


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    running = draw(st.integers(0, 8))
    least = draw(st.integers(0, 5))
    return Context(
        target=draw(st.integers(0, 12)),
        tokens=tuple(draw(st.none() | loads) for _ in range(running)),
        kv=tuple(draw(st.none() | st.floats(0, 20)) for _ in range(running)),
        requests=draw(st.just(0.0) | st.floats(0.01, 500)),
        least=least,
        most=draw(st.integers(max(1, least), 12)),
    )


# -- how many replicas ---------------------------------------------------------------------------


@given(contexts())
def test_the_answer_stays_within_the_bounds(context: Context) -> None:
    assert context.least <= wanted(context) <= context.most


@given(contexts())
def test_anything_under_way_keeps_at_least_one_replica(context: Context) -> None:
    busy = context.requests > 0 or (context.target > 0 and any(context.tokens))
    assert wanted(context) >= busy


@given(contexts(), st.data())
def test_more_load_never_asks_for_fewer_replicas(context: Context, data: st.DataObject) -> None:
    more = replace(
        context,
        tokens=tuple(None if each is None else each + data.draw(loads) for each in context.tokens),
        kv=tuple(None if each is None else each + data.draw(st.floats(0, 5)) for each in context.kv or ()),
        requests=context.requests + data.draw(st.floats(0, 50)),
    )
    assert wanted(more) >= wanted(context)


@given(st.integers(1, 20), st.floats(0.01, 60))
def test_no_replica_ends_above_its_target_by_more_than_the_tolerance(present: int, filled: float) -> None:
    share = filled * TOKENS / present
    count = wanted(Context(target=present, tokens=(share,) * present))
    assert filled / count <= 1 + TOLERANCE + 1e-9


@given(st.integers(1, 20), st.floats(0.01, 60))
def test_steady_load_leads_to_a_number_that_stays(present: int, filled: float) -> None:
    def spread(over: int) -> Context:
        return Context(target=over, tokens=(filled * TOKENS / over,) * over)

    settled = wanted(spread(present))
    assert wanted(spread(settled)) == settled


@given(st.integers(1, 20), st.floats(0.02, 30), st.floats(0.92, 1.0))
def test_load_that_trembles_by_less_than_the_tolerance_settles(present: int, filled: float, dip: float) -> None:
    counts = [present]
    for load in (filled, filled * dip) * 4:
        counts.append(wanted(Context(target=counts[-1], tokens=(load * TOKENS / counts[-1],) * counts[-1])))
    assert len(set(counts[-4:])) == 1


@pytest.mark.parametrize(
    ("present", "tokens", "kv", "expected"),
    [
        (1, (900,), (0.5,), 1),
        (1, (1099,), (0.5,), 1),
        (1, (1101,), (0.5,), 2),
        (1, (900,), (2.5,), 4),  # 2.5 / 0.8: half again as many wait as there are slots
        (3, (200, 200, 200), (0.1, 0.1, 0.1), 1),
        (3, (900, 900, 900), (0.1, 0.1, 0.1), 3),
        (3, (650, 650, 650), (0.1, 0.1, 0.1), 2),
        (2, (3000, 0), (0.9, 0.0), 3),  # one replica that was there before the other
    ],
)
def test_the_signal_that_asks_for_more_decides(
    present: int, tokens: tuple[float, ...], kv: tuple[float, ...], expected: int
) -> None:
    assert wanted(Context(target=present, tokens=tokens, kv=kv)) == expected


def test_the_first_queued_request_brings_the_first_replica() -> None:
    assert wanted(Context(target=0, requests=1.0)) == 1
    assert wanted(Context(target=0)) == 0


def test_an_idle_deployment_goes_down_to_its_least() -> None:
    assert wanted(Context(target=3, tokens=(0.0, 0.0, 0.0))) == 0
    assert wanted(Context(target=3, tokens=(0.0, 0.0, 0.0), least=1)) == 1


def test_a_replica_that_has_not_reported_is_no_reason_to_add_or_to_remove_one() -> None:
    assert wanted(Context(target=3, tokens=(None, None, None))) == 3, "as after a restart of the controller"
    assert wanted(Context(target=2, tokens=(900.0, None))) == 2
    assert wanted(Context(target=3, tokens=(200.0, 200.0, None))) == 2
    assert wanted(Context(target=2, tokens=(3500.0, None))) == 4


def test_before_any_report_there_are_no_metrics_at_all() -> None:
    context = AutoscalingContext(
        deployment_id=None,
        deployment_name="engine",
        app_name="glm",
        current_num_replicas=1,
        target_num_replicas=1,
        running_replicas=["only"],  # type: ignore[list-item]
        total_num_requests=lambda: 0.0,
        total_queued_requests=0.0,
        aggregated_metrics=None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=3,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=None,
    )
    assert POLICY(context) == (1, {})


@pytest.mark.parametrize("kwargs", [(0, 0.8), (-1, 0.8), (1000, 0), (math.nan, 0.8)])
def test_a_target_that_is_not_above_zero_is_refused_by_name(kwargs: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"target_\w+ is .*; it has to be above 0"):
        replicas_for_load(*kwargs)


# -- what Serve adds -----------------------------------------------------------------------------


def as_serve_runs_it(**delays: Any) -> tuple[Callable[[AutoscalingContext], tuple[int, dict[str, Any]]], Any]:
    """The policy out of a configuration, wrapped and bounded by Serve itself."""
    config = AutoscalingConfig(min_replicas=0, max_replicas=3, policy=CONFIG, **delays)
    return _apply_autoscaling_config(_resolve_policy_callable(config.policy)), config


@dataclass
class Deployment:
    """Serve's controller for one deployment, as far as the policy sees it."""

    target: int
    config: Any
    decide: Callable[[AutoscalingContext], tuple[int, dict[str, Any]]]
    state: dict[str, Any] = field(default_factory=dict)

    def tick(self, share: float, requests: float = 1.0) -> int:
        """One round with `share` of its target on each replica."""
        replicas = [f"r{i}" for i in range(self.target)]
        context = AutoscalingContext(
            deployment_id=None,
            deployment_name="engine",
            app_name="glm",
            current_num_replicas=self.target,
            target_num_replicas=self.target,
            running_replicas=replicas,  # type: ignore[arg-type]
            total_num_requests=requests,
            total_queued_requests=0.0,
            aggregated_metrics={  # type: ignore[arg-type]
                TOKENS_IN_FLIGHT: dict.fromkeys(replicas, share * TOKENS),
                KV_DEMAND: dict.fromkeys(replicas, 0.0),
            },
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=3,
            policy_state=self.state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=time.time(),
            config=self.config,
        )
        self.target, self.state = self.decide(context)
        return self.target


def test_serve_hands_the_settings_of_a_configuration_to_the_policy() -> None:
    decide, config = as_serve_runs_it(upscale_delay_s=0)
    assert Deployment(1, config, decide).tick(share=1.9) == 2
    assert config.policy.policy_kwargs == CONFIG["policy_kwargs"]


def test_serve_applies_its_delays_to_this_policy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0, time=lambda: clock.now)
    monkeypatch.setattr("ray.serve.autoscaling_policy.time", clock)
    decide, config = as_serve_runs_it(upscale_delay_s=0.2, downscale_delay_s=0.2, downscale_to_zero_delay_s=0.6)
    deployment = Deployment(1, config, decide)
    assert deployment.tick(share=2.5) == 1, "not at once"
    clock.now += 0.1
    assert deployment.tick(share=0.5) == 1, "a calm moment starts the delay anew"
    clock.now += 0.15
    assert deployment.tick(share=2.5) == 1
    clock.now += 0.25
    assert deployment.tick(share=2.5) == 3
    assert deployment.tick(share=0.0, requests=0.0) == 3
    clock.now += 0.25
    assert deployment.tick(share=0.0, requests=0.0) == 1, "never from several to none in one go"
    deployment.tick(share=0.0, requests=0.0)
    clock.now += 0.3
    assert deployment.tick(share=0.0, requests=0.0) == 1, "the last one goes later"
    clock.now += 0.35
    assert deployment.tick(share=0.0, requests=0.0) == 0
    assert deployment.tick(share=0.0, requests=1.0) == 1, "and the first one comes at once"


def test_the_controller_imports_the_policy_without_torch_or_ray() -> None:
    program = "import sys, serve_app.engine.scaling; print(sorted({'torch', 'ray', 'numpy'} & sys.modules.keys()))"
    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert seen.stdout == "[]\n"


# -- what a replica reports ----------------------------------------------------------------------


def remembered(*lengths: int) -> AnswerLengths:
    answers = AnswerLengths()
    for length in lengths * REMEMBERED_ANSWERS:
        answers.add(length)
    return answers


@given(st.lists(st.integers(1, 5000), max_size=200), st.integers(1, 5000), st.data())
def test_what_is_left_of_an_answer_is_within_its_limit(lengths: list[int], limit: int, data: st.DataObject) -> None:
    answers = AnswerLengths()
    for length in lengths:
        answers.add(length)
    generated = data.draw(st.integers(0, limit))
    left = answers.expected_remaining(generated, limit)
    assert 0 <= left <= limit - generated
    assert left > 0 or generated == limit


@given(st.lists(st.integers(1, 200), min_size=1, max_size=REMEMBERED_ANSWERS), st.integers(0, 199))
def test_what_is_left_is_the_mean_over_answers_that_became_longer(lengths: list[int], generated: int) -> None:
    answers = remembered(*lengths)
    recent = (lengths * REMEMBERED_ANSWERS)[-REMEMBERED_ANSWERS:]
    rest = [length - generated for length in recent if length > generated]
    assume(rest)
    assert answers.expected_remaining(generated, 10_000) == pytest.approx(sum(rest) / len(rest))


def test_a_high_max_tokens_does_not_count_as_work() -> None:
    assert remembered(20).expected_remaining(0, 4096) == 20
    assert remembered(20).expected_remaining(15, 4096) == 5
    assert remembered(20).expected_remaining(0, 8) == 8, "a low one does"


def test_an_answer_that_outlived_the_short_ones_counts_as_a_long_one() -> None:
    answers = remembered(10, 1000)
    assert answers.expected_remaining(0, 4096) == 505
    assert answers.expected_remaining(11, 4096) == 989


def test_an_answer_longer_than_any_is_taken_to_be_half_written() -> None:
    assert remembered(20).expected_remaining(300, 4096) == 300


def test_before_the_first_answer_a_guess_stands_for_it() -> None:
    assert AnswerLengths().expected_remaining(0, 4096) == FIRST_GUESS_TOKENS


def test_tokens_ahead_are_the_unread_prompt_and_the_rest_of_the_answer() -> None:
    reading = new_sequence("reading", Sampling(max_tokens=500), ids=(0,) * 300)
    reading.prefilled = 100
    answering = new_sequence("answering", Sampling(max_tokens=500), ids=(0,) * 300)
    answering.prefilled = 300
    answering.generated = [7] * 12
    assert tokens_ahead([reading, answering], remembered(20)) == (200 + 20) + 8
    assert tokens_ahead([], remembered(20)) == 0


def test_the_engine_reports_what_it_holds_and_what_waits(bench: Callable[..., Bench]) -> None:
    three = bench(slots=2, prefill_tokens=4)
    assert three.loop.load() == {TOKENS_IN_FLIGHT: 0, KV_DEMAND: 0}
    for name in ("a", "b", "c"):
        three.ask(name, b"ABCDEFGH", max_tokens=50)
    three.loop.step()
    unread = sum(sequence.prompt_tokens - sequence.prefilled for sequence in three.scheduler.sequences)
    assert unread < 24
    assert three.loop.load() == {TOKENS_IN_FLIGHT: unread + 3 * 50, KV_DEMAND: 1.5}
    three.run()
    assert three.loop.load() == {TOKENS_IN_FLIGHT: 0, KV_DEMAND: 0}


def test_the_engine_learns_how_long_its_answers_are(bench: Callable[..., Bench]) -> None:
    one = bench(slots=1)
    for index in range(2 * REMEMBERED_ANSWERS):
        one.ask(str(index), b"A", max_tokens=3)
        one.run()
    one.ask("next", b"A", max_tokens=200)
    one.loop.step()
    (sequences,) = one.scheduler.sequences
    assert one.loop.load()[TOKENS_IN_FLIGHT] == 3 - len(sequences.generated)
