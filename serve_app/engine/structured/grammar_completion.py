"""The shortest completion of a constrained answer, written when few tokens are left.

A constraint alone does not make an answer complete: a model that does not stop is cut off at `max_tokens`,
in the middle of a number or a list. So before a sampled token is accepted, the shortest completion of the
grammar after that token is searched for. If it does not fit in the tokens that are left, the token is
rejected and the completion found before it is written instead.

The search is greedy and does not use the model. It prefers control tokens that end something, then closing
brackets, then separators; a new object or list comes last. The result need not be the shortest one
possible, it only has to end.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MAX_COMPLETION_TOKENS = 256  # the search begins when so few tokens are left, and gives up beyond this length
_CHECK_MARGIN_TOKENS = 64  # with so few tokens to spare, every token is checked
_FIRST_CANDIDATES = 2048  # the best tokens of the order, searched first
_MAX_TOKEN_BYTES = 1 << 10
_UNUSABLE = np.iinfo(np.int64).max

# Kinds of tokens, best first; the flag is True if the longest token of a kind is best, else the shortest.
_OUTSIDE_STRINGS = (
    (rb"[}\]]+", True),
    (rb'"".*', False),
    (rb"[,:].*", True),
    (rb'".*', False),
    (rb"[^\s{\[].*", True),
    (rb"[{\[].*", False),
    (rb".*", False),
)
_IN_STRINGS = (
    (rb'"[}\]]*', True),
    (rb'".*', False),
    (rb'[^"\\\x80-\xff]+', True),
    (rb".*", False),
)


@dataclass(slots=True)
class StringScanner:
    """Whether JSON that is read byte by byte is inside a string; a control token (no bytes) resets it."""

    in_string: bool = False
    escaped: bool = False

    def read(self, token: bytes) -> None:
        if not token:
            self.in_string = self.escaped = False
        for byte in token:
            if self.escaped:
                self.escaped = False
            elif byte == ord("\\"):
                self.escaped = self.in_string
            elif byte == ord('"'):
                self.in_string = not self.in_string


class CompletionTable:
    """The order in which tokens are tried to complete an answer, inside and outside JSON strings."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        control_tokens = vocabulary.control_tokens
        self._ends = [token_id for token, token_id in control_tokens.ids.items() if token.name.startswith("END_")]
        self._begins = [
            control_tokens.ids[token]
            for token in ControlToken
            if token in control_tokens.ids and control_tokens.ids[token] not in self._ends
        ]
        self._token_bytes = [
            b"" if token_id in control_tokens.by_id else token
            for token_id, token in enumerate(vocabulary.token_bytes[:vocab_size])
        ]
        self._order = tuple(self._sorted(kinds, vocab_size) for kinds in (_OUTSIDE_STRINGS, _IN_STRINGS))

    def _sorted(self, kinds: tuple[tuple[bytes, bool], ...], vocab_size: int) -> NDArray[np.int64]:
        """Token ids, best first."""
        patterns = [(re.compile(pattern, re.DOTALL), longest) for pattern, longest in kinds]
        costs = np.full(vocab_size, _UNUSABLE, dtype=np.int64)
        for token_id, token in enumerate(self._token_bytes):
            if token:
                rank, longest = next(
                    (rank, longest) for rank, (pattern, longest) in enumerate(patterns, 1) if pattern.fullmatch(token)
                )
                costs[token_id] = rank * 2 * _MAX_TOKEN_BYTES + (-len(token) if longest else len(token))
        costs[self._begins] = (len(kinds) + 2) * 2 * _MAX_TOKEN_BYTES
        costs[self._ends] = 0
        order = costs.argsort(kind="stable")
        return order[: int((costs < _UNUSABLE).sum())]

    def text(self, token_id: int) -> bytes:
        """The bytes of a token; none for control tokens, end tokens and padding."""
        return self._token_bytes[token_id] if token_id < len(self._token_bytes) else b""

    def find_completion(self, matcher: LLMatcher, scanner: StringScanner, max_tokens: int) -> list[int] | None:
        """Token ids that complete the grammar, None if that takes more than `max_tokens`; changes neither argument."""
        matcher, scanner = matcher.deep_copy(), replace(scanner)
        tokens: list[int] = []
        while not matcher.is_accepting():
            token_id = self._best_token(matcher.compute_bitmask(), scanner.in_string)
            if token_id is None or len(tokens) == max_tokens or not matcher.consume_token(token_id):
                return None
            scanner.read(self.text(token_id))
            tokens.append(token_id)
        return tokens

    def _best_token(self, mask: bytes, in_string: bool) -> int | None:
        bits, order = np.frombuffer(mask, dtype=np.uint8), self._order[in_string]
        for token_ids in (order[:_FIRST_CANDIDATES], order[_FIRST_CANDIDATES:]):
            allowed = bits[token_ids >> 3] >> (token_ids & 7) & 1
            if len(allowed) and allowed[best := int(allowed.argmax())]:
                return int(token_ids[best])
        return None


class GrammarCompletion:
    """Completes one constrained answer within its `max_tokens`."""

    def __init__(self, table: CompletionTable) -> None:
        self._table = table
        self.scanner = StringScanner()  # has read the answer so far
        self._last_completion: list[int] | None = []  # the completion found last; None: none was found
        self._tokens: deque[int] = deque()  # the rest of the completion that is being written
        self.started = False  # from now on the completion is written, whatever is sampled

    @property
    def done(self) -> bool:
        return self.started and not self._tokens

    def next_token(self, matcher: LLMatcher, sampled: int, tokens_left: int) -> int:
        """The token to append: the sampled one, or the next one of the completion.

        The completion starts when it would not fit in `tokens_left` after the sampled token. `tokens_left` includes
        the sampled token, which `matcher` has not consumed.
        """
        if not self.started and self._must_check(tokens_left) and not self._fits(matcher, sampled, tokens_left):
            tokens = self._table.find_completion(matcher, self.scanner, tokens_left)
            if tokens:
                self.started, self._tokens = True, deque(tokens)
        token_id = self._tokens.popleft() if self._tokens else sampled
        self.scanner.read(self._table.text(token_id))
        return token_id

    def _must_check(self, tokens_left: int) -> bool:
        if tokens_left > _MAX_COMPLETION_TOKENS:
            return False
        # If none was found, there may still be one: continue, and search again later.
        return tokens_left % _CHECK_MARGIN_TOKENS == 0 or (
            self._last_completion is not None and tokens_left <= len(self._last_completion) + _CHECK_MARGIN_TOKENS
        )

    def _fits(self, matcher: LLMatcher, sampled: int, tokens_left: int) -> bool:
        after = matcher.deep_copy()
        if not after.consume_token(sampled):
            return True  # the caller reports this error
        scanner = replace(self.scanner)
        scanner.read(self._table.text(sampled))
        known = self._last_completion or []
        # The completion mostly stays the same: a quotation mark and two brackets, however long the string grows.
        candidates = (tokens for tokens in (known[1:], known) if _ends(after, tokens))
        self._last_completion = next(candidates, None) or self._table.find_completion(
            after, scanner, _MAX_COMPLETION_TOKENS
        )
        return self._last_completion is None or len(self._last_completion) < tokens_left


def _ends(matcher: LLMatcher, tokens: list[int]) -> bool:
    copy = matcher.deep_copy()
    return copy.try_consume_tokens(tokens) == len(tokens) and copy.is_accepting()
