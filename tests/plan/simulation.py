"""The engine's own Scheduler driven by random arrivals, with the plan's costs for a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from serve_app.engine.scheduler import Scheduler
from serve_app.plan.capacity import Replica


@dataclass(eq=False)
class Answer:
    """What the scheduler and the loop see of a sequence."""

    arrived: float
    prompt_tokens: int
    answer_tokens: int
    slot: int = -1
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    first_token_s: float = 0.0
    answer_s: float = 0.0

    @property
    def in_prefill(self) -> bool:
        return self.prefilled < self.prompt_tokens

    @property
    def cached(self) -> int:
        return self.prefilled + len(self.generated)


def simulate(replica: Replica, load: float, slots: int, requests: int, seed: int = 0) -> list[Answer]:
    """Answers to `requests` questions that arrive at random, `load` a second on average."""
    draw = random.Random(seed)
    arrivals, now = [], 0.0
    for _ in range(requests):
        now += draw.expovariate(load)
        arrivals.append(now)
    return run(replica, arrivals, slots, again=0)


def closed_loop(replica: Replica, callers: int, slots: int, each: int) -> list[Answer]:
    """`callers` who ask again as soon as they are answered, as benchmarks/capacity.py does."""
    return run(replica, [0.0] * callers, slots, again=callers * (each - 1))


def run(replica: Replica, arrivals: list[float], slots: int, again: int) -> list[Answer]:
    """The loop of serve_app/engine/loop.py: admit, a budget of prompt chunks, one token for everyone."""
    request, costs = replica.request, replica.costs
    scheduler: Any = Scheduler(slots, replica.chunk_tokens, max_waiting=10**9)
    coming = [Answer(at, request.prompt_tokens, request.answer_tokens) for at in reversed(arrivals)]
    now, finished = 0.0, []
    while coming or not scheduler.idle:
        if scheduler.idle:
            now = max(now, coming[-1].arrived)
        while coming and coming[-1].arrived <= now:
            scheduler.add(coming.pop())
        scheduler.admit()
        for chunk in scheduler.chunks():
            if chunk.start == 0:
                now += sum(costs.encode_s(tokens) for tokens in request.pictures)
            now += costs.chunk_s(chunk.start, chunk.stop)
            chunk.sequence.prefilled = chunk.stop
            if chunk.completes:
                chunk.sequence.generated.append(0)
                chunk.sequence.first_token_s = now - chunk.sequence.arrived
        decoding = scheduler.decoding()
        if decoding:
            longest = max(answer.cached for answer in decoding)
            now += costs.step_s(len(decoding), longest)
        for answer in decoding:
            answer.generated.append(0)
            if len(answer.generated) >= answer.answer_tokens:
                answer.answer_s = now - answer.arrived
                scheduler.retire(answer)
                finished.append(answer)
                if again:
                    again -= 1
                    coming.append(Answer(now, answer.prompt_tokens, answer.answer_tokens))
    return finished
