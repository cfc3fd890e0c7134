"""Autoscaling policy: the load of an engine replica, and the number of replicas for it.

The first half runs in each replica: `tokens_ahead` estimates the remaining work. The second half,
`replicas_for_load`, runs in Serve's controller. Both are plain Python: Ray pickles this module by value and
imports it in processes without torch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

TOKENS_IN_FLIGHT: Final = "tokens_in_flight"
KV_DEMAND: Final = "kv_demand"

TOLERANCE: Final = 0.1  # a share this much above or below its target changes nothing
REMEMBERED_ANSWERS: Final = 128
FIRST_GUESS_TOKENS: Final = 256  # the first entry, until finished answers replace it


class InFlightRequest(Protocol):
    """The size of one request in an engine."""

    @property
    def unread_tokens(self) -> int: ...
    @property
    def generated(self) -> Sequence[int]: ...
    @property
    def max_tokens(self) -> int: ...


class AnswerLengths:
    """Lengths of recent answers, and the expected rest of a running one.

    `max_tokens` is only a bound: callers set it high and answers rarely reach it, so counting it would ask
    for several times the replicas that the work needs. What is counted is the mean residual life, the usual
    estimate for work of unknown size: of the recent answers that became longer than this one is now, how much
    longer on average. It needs no assumption on the distribution of lengths, and adapts to a long answer as soon
    as it is longer than the short ones. (D. R. Cox, Renewal Theory, 1962, section 5.)
    """

    def __init__(self) -> None:
        self._recent = deque([FIRST_GUESS_TOKENS], maxlen=REMEMBERED_ANSWERS)

    def add(self, tokens: int) -> None:
        """Add a finished answer; cancelled and failed ones are not added, because their full length is unknown."""
        self._recent.append(tokens)

    def expected_remaining(self, generated: int, max_tokens: int) -> float:
        """Tokens that an answer of `generated` tokens may still need, at most up to `max_tokens`.

        An answer longer than all recent ones is expected to double.
        """
        longer = [tokens for tokens in tuple(self._recent) if tokens > generated]
        expected = sum(longer) / len(longer) - generated if longer else generated
        return min(expected, max_tokens - generated)


def tokens_ahead(works: Iterable[InFlightRequest], answers: AnswerLengths) -> float:
    """Prompt tokens still to be read and answer tokens still to be expected, of all `works` together."""
    return sum(work.unread_tokens + answers.expected_remaining(len(work.generated), work.max_tokens) for work in works)


class ScalingContext(Protocol):
    """What the policy reads of `ray.serve.config.AutoscalingContext`.

    Metrics and requests are means over `look_back_period_s`; metrics map a name to a value of each replica.
    """

    @property
    def target_num_replicas(self) -> int: ...
    @property
    def running_replicas(self) -> Sequence[Hashable]: ...
    @property
    def total_num_requests(self) -> float: ...
    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...
    @property
    def capacity_adjusted_min_replicas(self) -> int: ...
    @property
    def capacity_adjusted_max_replicas(self) -> int: ...


class replicas_for_load:  # used as a function; a class, because Serve gives `policy_kwargs` to nothing else
    """The number of replicas at which the load of each is at most its targets.

    In `autoscaling_config.policy` of the engine, as `policy_function` with these `policy_kwargs`:

    * `target_tokens_in_flight`: prompt tokens still to be read plus answer tokens still to be expected, of
      one replica (`TOKENS_IN_FLIGHT` of its `record_autoscaling_stats`). It is time ahead, in tokens.
    * `target_kv_use`: running and waiting sequences, relative to the slots (`KV_DEMAND`; above 1 some wait).
      A slot stands for the longest admissible sequence; with KV pages this is an
      approximation. 0.8 leaves a fifth free.

    The larger number of the two targets is used. Further rules:

    * What differs from the present target by no more than a tenth changes nothing, and a replica that has not
      reported counts as idle when more replicas are considered and as full when fewer are: both are rules of
      the Kubernetes HorizontalPodAutoscaler ("Algorithm details" of its documentation), against flapping.
    * While any request is under way, at a replica or still queued at a handle, there is at least one replica.
      At zero, only the handles know of a request; Serve (2.60) starts the first replica by itself then.

    Not here, because Serve does it for every policy (`_apply_autoscaling_config` in Ray 2.60's
    `serve/autoscaling_policy.py`): `upscale_delay_s`, `downscale_delay_s` and `downscale_to_zero_delay_s`, the
    factors, and the mean over `look_back_period_s` of everything that the context holds.

    Raises ValueError for a target that is not above zero; Serve reports it as the reason why the deployment failed.
    """

    def __init__(self, target_tokens_in_flight: float, target_kv_use: float) -> None:
        for name, value in (("target_tokens_in_flight", target_tokens_in_flight), ("target_kv_use", target_kv_use)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; it has to be above 0.")
        self._targets = {TOKENS_IN_FLIGHT: target_tokens_in_flight, KV_DEMAND: target_kv_use}

    def __call__(self, context: ScalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas within the deployment's bounds, and an empty policy state."""
        reported = context.aggregated_metrics or {}
        loads = [reported.get(name, {}) for name in self._targets]
        filled = max(sum(load.values()) / target for load, target in zip(loads, self._targets.values(), strict=True))
        silent = sum(any(replica not in load for load in loads) for replica in context.running_replicas)
        wanted = present = context.target_num_replicas
        if filled > present * (1 + TOLERANCE):
            wanted = _round_up(filled)
        elif filled + silent < present * (1 - TOLERANCE):
            wanted = _round_up(filled + silent)
        if context.total_num_requests > 0:
            wanted = max(wanted, 1)
        return min(max(wanted, context.capacity_adjusted_min_replicas), context.capacity_adjusted_max_replicas), {}


def _round_up(share: float) -> int:
    """Rounded up, ignoring rounding errors of a float sum."""
    return math.ceil(share * (1 - 1e-9))
