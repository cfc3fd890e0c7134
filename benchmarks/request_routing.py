"""By which rule do replicas share the work evenly, while follow-ups find their picture's pages? A simulation.

A closed loop of 64 callers for each GPU, without Ray and GPU: replicas are queues with slots and the times that an
H200 needs (benchmarks/results/capacity-2026-11-29.json); the rule is the service's own (`engine/affinity.py`). An
ingress knows the requests of the others only as well as in Ray Serve: by the number that comes with an accepted
request, and by asking four times a second. Every request may reach any ingress.

    python -m benchmarks.request_routing

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from benchmarks.report import header, percentile, save
from serve_app.engine.affinity import Affinity, home

SLOTS = CALLERS = 64  # of each GPU
ANSWER_TOKENS: Final = 128
STEP_S, ROW_S = 0.0057, 0.00002  # of a decode step
NEW_S, KNOWN_S = 0.080, 0.018  # encode and prefill of a new picture's prompt; of a follow-up on its own replica
CLIENT_S: Final = 0.02  # from an answer to the caller's next request at a router
ASK_S: Final = 0.25  # as `_COUNTS_VALID_S` in engine/request_router.py
WARM_UP_S: Final = 20.0
RULES = ("by load", "by hash", "ours")


@dataclass
class Conversation:
    """Questions about one picture, one after the other."""

    picture: str
    asked: int = 0


@dataclass
class Waiting:
    caller: int
    ingress: int
    picture: str
    since: float
    left: int = ANSWER_TOKENS


@dataclass
class Replica:
    waiting: deque[Waiting] = field(default_factory=deque)
    rows: list[Waiting] = field(default_factory=list)
    pictures: set[str] = field(default_factory=set)
    in_progress: int = 0
    steps: bool = False  # whether a step runs


class Simulation:
    """Events in the order of their times: a caller asks, a replica's step ends, routers ask for numbers."""

    def __init__(self, rule: str, replicas: int, ingresses: int, turns: int, seed: int = 0) -> None:
        self._rule, self._turns = rule, turns
        self._random = random.Random(seed)
        self._names = [f"replica {number}" for number in range(replicas)]
        self._replicas = {name: Replica() for name in self._names}
        self._counts = [dict.fromkeys(self._names, 0) for _ in range(ingresses)]
        self._affinity = [Affinity(SLOTS) for _ in range(ingresses)]
        self._conversations: dict[int, Conversation] = {}
        self._pictures = 0
        self._now, self._events, self._number = 0.0, list[tuple[float, int, Callable[[], None]]](), 0
        self.answers, self.follow_ups, self.found = 0, 0, 0
        self.first_tokens: list[float] = []
        for caller in range(CALLERS * replicas):
            self._after(2 * self._random.random(), partial(self._ask, caller))
        self._after(ASK_S, self._ask_for_counts)

    def run(self, until_s: float) -> dict[str, float]:
        measured = False
        while self._events[0][0] < until_s:
            self._now, _, event = heapq.heappop(self._events)
            if not measured and self._now > WARM_UP_S:
                measured, self.answers, self.follow_ups, self.found = True, 0, 0, 0
                self.first_tokens.clear()
            event()
        return {
            "requests_per_s": round(self.answers / (until_s - WARM_UP_S), 2),
            "first_token_p50_s": round(percentile(self.first_tokens, 50), 2),
            "first_token_p95_s": round(percentile(self.first_tokens, 95), 2),
            "follow_ups_with_pages": round(self.found / self.follow_ups, 3) if self.follow_ups else 0.0,
        }

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self._now + seconds, self._number, event))

    def _ask(self, caller: int) -> None:
        conversation = self._conversations.get(caller)
        if conversation is None or conversation.asked == self._turns:
            self._pictures += 1
            conversation = self._conversations[caller] = Conversation(f"picture {self._pictures}")
        ingress = self._random.randrange(len(self._counts))
        name = self._choose(ingress, conversation.picture)
        replica = self._replicas[name]
        self._affinity[ingress].remember(conversation.picture, name)
        if conversation.asked:
            self.follow_ups += 1
            self.found += conversation.picture in replica.pictures
        conversation.asked += 1
        replica.in_progress += 1
        self._counts[ingress][name] = replica.in_progress
        replica.waiting.append(Waiting(caller, ingress, conversation.picture, self._now))
        if not replica.steps:
            self._step(replica, name)

    def _choose(self, ingress: int, picture: str) -> str:
        counts = self._counts[ingress]
        if self._rule == "ours":
            return self._affinity[ingress].choose(picture, counts)
        if self._rule == "by hash":
            return home(picture, self._names)
        return min(self._random.sample(self._names, min(2, len(self._names))), key=counts.__getitem__)

    def _step(self, replica: Replica, name: str) -> None:
        """One decode step of all rows, and one prompt if there is a slot for it."""
        seconds, started = STEP_S + ROW_S * len(replica.rows) if replica.rows else 0.0, None
        if replica.waiting and len(replica.rows) < SLOTS:
            started = replica.waiting.popleft()
            seconds += KNOWN_S if started.picture in replica.pictures else NEW_S
            replica.pictures.add(started.picture)
        replica.steps = seconds > 0
        if replica.steps:
            self._after(seconds, partial(self._step_ended, replica, name, started))

    def _step_ended(self, replica: Replica, name: str, started: Waiting | None) -> None:
        for row in replica.rows:
            row.left -= 1
            if not row.left:
                self.answers += 1
                replica.in_progress -= 1
                counts = self._counts[row.ingress]
                counts[name] = max(0, counts[name] - 1)
                self._after(CLIENT_S, partial(self._ask, row.caller))
        replica.rows = [row for row in replica.rows if row.left]
        if started is not None:
            self.first_tokens.append(self._now - started.since)
            replica.rows.append(started)
        self._step(replica, name)

    def _ask_for_counts(self) -> None:
        for counts in self._counts:
            counts.update({name: replica.in_progress for name, replica in self._replicas.items()})
        self._after(ASK_S, self._ask_for_counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--turns", nargs="+", type=int, default=[1, 6], help="questions about each picture")
    parser.add_argument("--seconds", type=float, default=60.0, help="of simulated time, 20 of them not measured")
    parser.add_argument("--save", action="store_true", help="write the report to benchmarks/results/")
    options = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    for turns in options.turns:
        one = Simulation("by load", 1, 1, turns).run(options.seconds)
        for replicas in options.replicas:
            for ingresses in (1, replicas):
                for rule in RULES:
                    figures = Simulation(rule, replicas, ingresses, turns).run(options.seconds)
                    times = round(figures["requests_per_s"] / one["requests_per_s"], 2)
                    rounds.append(
                        {"turns": turns, "replicas": replicas, "ingresses": ingresses, "rule": rule, "times": times}
                        | figures
                    )
                    print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    report = header("request_routing", []) | {"rounds": rounds}
    if options.save:
        save(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
