"""One request inside the engine: everything that changes while it is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Event, FinishReason, Prompt, TokenLogprob, Usage
from serve_app.engine.output.deltas import Piece, append_piece
from serve_app.engine.output.parser import OutputParser
from serve_app.engine.structured.grammar_completion import GrammarCompletion
from serve_app.errors import EngineFailed, ServiceError

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher

Sink = Callable[[Event | ServiceError], None]


@dataclass(eq=False, slots=True)
class Sequence:
    """State of one request; what can be derived is a property.

    The cache holds `cached` tokens: the prefilled part of the prompt, then every generated token but
    the newest, which the next decode step feeds in.
    """

    prompt: Prompt
    sink: Sink
    parser: OutputParser
    seed: int
    arrived: float  # seconds on the engine's clock
    positions: NDArray[np.int64]  # (axes, prompt tokens)
    position_delta: int  # position of a generated token = its index in the cache + delta
    stop_ids: frozenset[int] = frozenset()
    matcher: LLMatcher | None = None  # of a constrained answer: which tokens may come next
    completion: GrammarCompletion | None = None  # of a constrained answer: brings it to its end within its tokens
    thinking_end_ids: tuple[int, ...] = ()  # token ids that end reasoning once its budget is used up
    slot: int = -1
    prefilled: int = 0
    generated: list[int] = field(default_factory=list)
    features: torch.Tensor | None = None  # (image tokens, hidden), in prompt order
    stages_ms: dict[str, float] = field(default_factory=dict)
    first_token_at: float = 0.0
    emitted_at: float = 0.0
    emitted: bool = False  # whether a piece has gone out
    pending: list[Piece] = field(default_factory=list)  # what waits for the stream's next piece
    _forced_tokens: deque[int] = field(default_factory=deque)  # the rest of `thinking_end_ids`, once begun

    def __post_init__(self) -> None:
        self._apply_thinking_budget()

    @property
    def id(self) -> str:
        return self.prompt.id

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt.token_ids)

    @property
    def unread_tokens(self) -> int:
        return self.prompt_tokens - self.prefilled

    @property
    def in_prefill(self) -> bool:
        return self.prefilled < self.prompt_tokens

    @property
    def cached(self) -> int:
        return self.prefilled + max(0, len(self.generated) - 1)

    @property
    def reserved(self) -> int:
        """Cache tokens this sequence may grow to."""
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
        """The token that comes next whatever the model likes; None: it draws."""
        return self._forced_tokens[0] if self._forced_tokens else None

    def append_token(self, token_id: int, logprob: TokenLogprob | None = None) -> FinishReason | None:
        """Add a sampled token; says why the answer ends with it, None while it goes on.

        Raises EngineFailed if the token breaks the answer's constraint, which a mask should have prevented.
        """
        if token_id in self.stop_ids and not self.prompt.sampling.ignore_eos:
            self.generated.append(token_id)
            return self._complete()
        if self.matcher is not None:
            token_id, logprob = self._apply_constraint(self.matcher, token_id, logprob)
        self.generated.append(token_id)
        self._add(self.parser.push(token_id, logprob))
        if self.completion is not None and self.completion.done:
            self._add(self.parser.finish())
            return "length"
        if self.parser.stopped or (self.matcher is not None and self.matcher.is_stopped()):
            return self._complete()
        if len(self.generated) >= self.max_tokens:
            self._add(self.parser.truncate())
            return "length"
        self._advance_forced_tokens(token_id)
        self._apply_thinking_budget()
        return None

    def _apply_constraint(
        self, matcher: LLMatcher, token_id: int, logprob: TokenLogprob | None
    ) -> tuple[int, TokenLogprob | None]:
        """The token that keeps the answer within its form and its length: the sampled one, mostly."""
        if self.completion is not None:
            sampled, token_id = (
                token_id,
                self.completion.next_token(matcher, token_id, self.max_tokens - len(self.generated)),
            )
            logprob = logprob if token_id == sampled else None
        if not matcher.consume_token(token_id):
            raise EngineFailed("the answer's constraint could not be followed to its end")
        return token_id, logprob

    def _complete(self) -> FinishReason:
        self._add(self.parser.finish())
        return "tool_calls" if self.parser.has_tool_calls else "stop"

    def _add(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            append_piece(self.pending, piece)

    def _advance_forced_tokens(self, token_id: int) -> None:
        if self._forced_tokens and token_id == self._forced_tokens[0]:
            self._forced_tokens.popleft()
        elif self._forced_tokens and not self.parser.in_reasoning:
            self._forced_tokens.clear()  # a constraint knows better what may follow reasoning

    def _apply_thinking_budget(self) -> None:
        budget = self.prompt.thinking.budget_tokens
        if budget is None or self._forced_tokens or not self.parser.in_reasoning:
            return
        if self.parser.thinking_tokens >= budget:
            self._forced_tokens.extend(self.thinking_end_ids)
