"""How many requests a second one replica carries, so that first tokens come in time and no slot is short.

The engine's loop is one server. Each round takes in a chunk of the oldest prompt, then decodes one token for every
answer. So, with `load` requests a second, W seconds of reading a request, A answer tokens, and s(B) a step of B rows:

* decoding rows: B = load * A * s(B) / (1 - load * W), since steps get the time that reading leaves (Little's law);
* a prompt is served in S = W + chunks * s(B), one after the other: a queue with random arrivals and one server of
  fixed service time (M/D/1, Pollaczek and Khinchine's formula), whose tail is close to exponential.

Both hold while the replica is not near its limit, which is what `BUSIEST` sees to. tests/plan/test_capacity.py holds
them to the engine's own Scheduler, driven by random arrivals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from serve_app.plan.costs import Costs

BUSIEST: Final = 0.75  # of what a replica could do at its very limit; above it, waits grow faster than estimates hold
LATE: Final = 0.05  # share of first tokens that may come later than asked for
MOST_ROWS: Final = 64  # larger batches were not measured
_HALVINGS: Final = 40  # of an interval: more than a float's precision matters here


@dataclass(frozen=True, slots=True)
class Request:
    """What one question is made of, in tokens."""

    pictures: tuple[int, ...]  # tokens of each
    text_tokens: int
    answer_tokens: int

    @property
    def prompt_tokens(self) -> int:
        return sum(self.pictures) + self.text_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens


@dataclass(frozen=True, slots=True)
class Operation:
    """One replica under a steady load."""

    load: float  # requests a second
    rows: float  # answers being written, on average
    in_flight: float  # with those waiting and being read
    token_s: float  # between two tokens of an answer
    first_token_s: float  # 95 of 100 come sooner; the engine's part
    answer_s: float  # mean, from arrival to the last token
    tokens_ahead: float  # prompt tokens unread and answer tokens to come, as the autoscaler counts them


@dataclass(frozen=True)
class Replica:
    """What one replica does with requests of one kind."""

    costs: Costs
    request: Request
    chunk_tokens: int

    @cached_property
    def idle_s(self) -> float:
        """The first token of one request, with nobody else there."""
        return self._encode_s + self.costs.prompt_s(self.request.prompt_tokens, self.chunk_tokens)

    @cached_property
    def read_s(self) -> float:
        """Reading one request while others wait: a chunk then begins where the one before left off, in any prompt."""
        prompt, chunk = self.request.prompt_tokens, self.chunk_tokens
        offsets = [chunk * (2 * eighth + 1) // 16 for eighth in range(8)]
        split = sum(self.costs.prompt_s(prompt, chunk, offset) for offset in offsets) / len(offsets)
        return self._encode_s + split

    def limit(self, slots: int) -> float:
        """Requests a second with every slot in use, however long they wait."""
        return 1 / (self.read_s + self.request.answer_tokens * self._step_s(slots) / slots)

    def under(self, load: float) -> Operation | None:
        """How it runs at so many requests a second; None where it would fall behind."""
        request = self.request
        read = self.idle_s + (self.read_s - self.idle_s) * min(1.0, load * self.read_s)
        spare = 1 - load * read
        rows = self._rows(load * request.answer_tokens / spare) if spare > 0 else None
        if rows is None:
            return None
        step = self._step_s(max(rows, 1.0))
        service = read + (request.prompt_tokens / self.chunk_tokens + 1) * step * min(rows, 1.0)
        busy = load * service
        if busy >= 1:
            return None
        waiting = busy * service / (2 * (1 - busy))
        late = waiting / busy * math.log(busy / LATE) if busy > LATE else 0.0
        token_s = step / spare
        behind = load * (waiting + service) * read / spare  # the prompts that came meanwhile are read first
        return Operation(
            load=load,
            rows=rows,
            in_flight=rows + load * (waiting + service + behind),
            token_s=token_s,
            first_token_s=late + service,
            answer_s=waiting + service + behind + (request.answer_tokens - 1) * token_s,
            tokens_ahead=load * (waiting + service / 2) * request.prompt_tokens
            + load * (waiting + service) * request.answer_tokens
            + (rows / 2 + load * behind) * request.answer_tokens,
        )

    def carries(self, load: float, slots: int, first_token_s: float) -> bool:
        """Whether first tokens come in time and slots suffice, also when more than usual are in flight."""
        operation = self.under(load)
        if operation is None or load > BUSIEST * self.limit(slots) or operation.first_token_s > first_token_s:
            return False
        return operation.in_flight + 2 * math.sqrt(operation.in_flight) <= slots or load == 0

    def most(self, slots: int, first_token_s: float) -> float:
        """Requests a second that it carries; 0 if not even an idle one answers in time."""
        least, above = 0.0, 1 / self.read_s
        if not self.carries(least, slots, first_token_s):
            return 0.0
        for _ in range(_HALVINGS):
            middle = (least + above) / 2
            if self.carries(middle, slots, first_token_s):
                least = middle
            else:
                above = middle
        return least

    @property
    def _encode_s(self) -> float:
        return sum(self.costs.encode_s(tokens) for tokens in self.request.pictures)

    def _rows(self, tokens_per_s: float) -> float | None:
        """Rows that give so many tokens a second of decoding time; None if more than MOST_ROWS would have to."""
        if tokens_per_s <= 1 / self._step_s(1.0):
            return tokens_per_s * self._step_s(1.0)
        if tokens_per_s >= MOST_ROWS / self._step_s(MOST_ROWS):
            return None
        least, above = 1.0, float(MOST_ROWS)
        for _ in range(_HALVINGS):
            middle = (least + above) / 2
            if middle / self._step_s(middle) < tokens_per_s:
                least = middle
            else:
                above = middle
        return above

    def _step_s(self, rows: float) -> float:
        return self.costs.step_s(rows, self.request.prompt_tokens + self.request.answer_tokens / 2)
