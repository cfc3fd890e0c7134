"""Sequence: the state of one request in the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import FinishReason, Picture, Prompt, TokenLogprob, Usage
from serve_app.engine.output.parser import OutputParser
from serve_app.engine.structured.compiler import constraint_failure
from serve_app.engine.structured.draft import Drafter
from serve_app.engine.structured.grammar_completion import GrammarCompletion
from serve_app.errors import ServiceError
from serve_app.replies import EngineEvent

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher

Sink = Callable[[EngineEvent | ServiceError], None]


@dataclass(eq=False, slots=True)
class Sequence:
    """State of one request; what can be derived is a property.

    The KV cache holds `cached` tokens: the prefilled part of the prompt and every generated token except
    the last, which is the input of the next decode step. Tokens in flight count as generated.
    """

    prompt: Prompt
    sink: Sink
    parser: OutputParser
    seed: int
    positions: NDArray[np.int64]  # (axes, prompt tokens)
    position_delta: int  # position of a generated token = its index in the cache + delta
    arrived: float = 0.0  # seconds on the engine's clock
    stop_ids: frozenset[int] = frozenset()
    matcher: LLMatcher | None = None  # of a constrained answer: the tokens that may come next
    completion: GrammarCompletion | None = None  # of a constrained answer
    drafter: Drafter | None = None  # of a constrained answer
    thinking_end_ids: tuple[int, ...] = ()  # forced when the thinking budget is used up
    slot: int = -1
    page_keys: list[bytes] = field(default_factory=list)  # of the pages that the prompt fills
    pages: list[int] = field(default_factory=list)  # of the KV cache, in order
    prefilled: int = 0
    in_flight: int = 0  # tokens being computed that have not been read
    stale: bool = False  # the token in flight follows a token that was not accepted
    generated: list[int] = field(default_factory=list)
    needs_features: bool = False  # of its last `needed_pictures`
    needed_pictures: int = 0  # of the prompt, from the first one with a token that pages do not hold
    encoded: dict[str, torch.Tensor] = field(default_factory=dict)  # features of needed pictures so far, by digest
    looked_up: bool = False  # whether the cache was asked for them
    features: torch.Tensor | None = None  # (image tokens, hidden) of needed pictures, in prompt order
    stages_ms: dict[str, float] = field(default_factory=dict)
    device_ms: float = 0.0  # its share of the model's time so far
    first_token_at: float = 0.0
    emitted_at: float = 0.0
    emitted: bool = False  # whether a delta was emitted
    _forced_tokens: deque[int] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._apply_thinking_budget()

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.token_ids)

    @property
    def needed(self) -> tuple[Picture, ...]:
        """The pictures whose features it needs, the last ones of the prompt."""
        pictures = self.prompt.pictures
        return pictures[len(pictures) - self.needed_pictures :]

    def need_pictures(self, count: int) -> None:
        """Need the features of the last `count` pictures of the prompt."""
        self.needed_pictures, self.needs_features = count, count > 0

    @property
    def unread_tokens(self) -> int:
        return self.prompt_tokens - self.prefilled

    @property
    def in_prefill(self) -> bool:
        return self.prefilled < self.prompt_tokens

    @property
    def cached(self) -> int:
        return self.prefilled + max(0, len(self.generated) + self.in_flight - 1)

    @property
    def decodes(self) -> bool:
        """Whether one more token can be computed."""
        begun = len(self.generated) + self.in_flight
        return 0 < begun < self.max_tokens and self.slot >= 0

    @property
    def reserved(self) -> int:
        """Cache tokens that this sequence may need."""
        return self.prompt_tokens + self.max_tokens

    @property
    def max_tokens(self) -> int:
        limit = self.prompt.sampling.max_tokens
        assert limit is not None, "preprocess resolves max_tokens"
        return limit

    @property
    def deadline(self) -> float:
        return self.arrived + self.prompt.deadline_s

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, len(self.generated), self.prompt.image_tokens, self.parser.reasoning_tokens)

    @property
    def forced_token(self) -> int | None:
        """The next token if it is not sampled: the end of reasoning after the thinking budget."""
        return self._forced_tokens[0] if self._forced_tokens else None

    def draft(self) -> tuple[int, ...]:
        """The next inputs of the model if they are more than one: the newest token, then drafted ones.

        While the newest token has not been read, the first drafted token is used in its place.
        """
        if self.drafter is None or self.matcher is None or self.completion is None or self.in_flight > 1:
            return ()
        if self.completion.started or self._forced_tokens or self.parser.in_reasoning:
            return ()
        most = self.max_tokens - len(self.generated) - 1
        drafted = self.drafter.draft(self.matcher, self.completion.scanner, self.generated, most)
        inputs = (*drafted,) if self.in_flight else (self.generated[-1], *drafted)
        return inputs if len(inputs) > 1 else ()

    def _ends_with(self, token_id: int) -> bool:
        """Whether the answer ends with this token, which has no text."""
        sampling = self.prompt.sampling
        if token_id in sampling.stop_token_ids and len(self.generated) >= sampling.min_tokens:
            return True
        return token_id in self.stop_ids and not sampling.ignore_eos

    def append_token(self, token_id: int, logprob: TokenLogprob | None = None) -> FinishReason | None:
        """Append a sampled token and parse it. Returns the finish reason, None if the answer continues.

        Raises InvalidRequest if the constraint is too complex to be applied to this token.
        """
        if self._ends_with(token_id):
            self.generated.append(token_id)
            return self._finish()
        if self.matcher is not None:
            token_id, logprob = self._apply_constraint(self.matcher, token_id, logprob)
        self.generated.append(token_id)
        self.parser.push(token_id, logprob)
        completed = self.completion is not None and self.completion.done
        if completed or self.parser.stopped or (self.matcher is not None and self.matcher.is_stopped()):
            return self._finish()
        if len(self.generated) >= self.max_tokens:
            self.parser.truncate()
            return "length"
        self._advance_forced_tokens(token_id)
        self._apply_thinking_budget()
        return None

    def _apply_constraint(
        self, matcher: LLMatcher, token_id: int, logprob: TokenLogprob | None
    ) -> tuple[int, TokenLogprob | None]:
        """The sampled token, or one that completes the answer before `max_tokens`; advances the matcher."""
        if self.completion is not None:
            sampled, tokens_left = token_id, self.max_tokens - len(self.generated)
            token_id = self.completion.next_token(matcher, sampled, tokens_left)
            logprob = logprob if token_id == sampled else None
        if not matcher.consume_token(token_id):
            raise constraint_failure(self.prompt, matcher)
        return token_id, logprob

    def _finish(self) -> FinishReason:
        self.parser.finish()
        return "tool_calls" if self.parser.has_tool_calls else "stop"

    def _advance_forced_tokens(self, token_id: int) -> None:
        if self._forced_tokens and token_id == self._forced_tokens[0]:
            self._forced_tokens.popleft()
        elif self._forced_tokens and not self.parser.in_reasoning:
            self._forced_tokens.clear()  # the constraint ended reasoning in another way

    def _apply_thinking_budget(self) -> None:
        budget = self.prompt.thinking.budget_tokens
        if budget is None or self._forced_tokens or not self.parser.in_reasoning:
            return
        if self.parser.thinking_tokens >= budget:
            self._forced_tokens.extend(self.thinking_end_ids)


@dataclass(frozen=True, slots=True)
class Sample:
    """A token that a step samples: the one of a sequence that follows the accepted tokens and drafted ones."""

    sequence: Sequence
    index: int  # in the answer, from 0
    drafted: tuple[int, ...] = ()  # the tokens before it that are a guess
    newest: int | None = None  # the token before it; None: the one that the step before sampled

    @property
    def is_next(self) -> bool:
        """Whether the sequence continues with this token: all before it were accepted, and no other."""
        generated = self.sequence.generated
        if self.sequence.slot < 0 or len(generated) != self.index:
            return False
        return self.newest is None or generated[-1] == self.newest


def charge_device_time(tokens: Iterable[tuple[Sequence, int]], seconds: float) -> None:
    """Divides the time of a computation among sequences by the number of their tokens in it."""
    shares = list(tokens)
    total = sum(number for _, number in shares)
    for sequence, number in shares:
        sequence.device_ms += seconds * 1e3 * number / total
