"""The shortest ending of a constrained answer, written when the tokens left are just enough for it.

A constraint alone does not make an answer whole: a model that goes on and on is cut at `max_tokens`, in
the middle of a number or a list. So before a drawn token is taken, the shortest way from there to the
grammar's end is looked for; a token that leaves too little room is not taken, and that way is gone instead.

The way is found greedily, without the model: marks that end something, then brackets that close, then what
separates; a new object or list last. It need not be the very shortest, only one that ends.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.engine.output.control_tokens import Mark, Marks
from serve_app.engine.output.detokenizer import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

_FARTHEST = 256  # tokens: longer endings are not looked for, and none is looked for earlier
_CLOSE = 64  # within so many tokens more than the ending takes, every token is checked
_FIRST = 2048  # the best tokens, among which the next one nearly always is
_LONGEST_TOKEN = 1 << 10
_NEVER = np.iinfo(np.int64).max

# What to write next, best first; the flag says whether the longest of a kind is best, or the shortest.
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
    """Whether JSON that is read byte by byte stands inside a string; a mark (no bytes) begins anew."""

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


class EndingTable:
    """How much each token of a vocabulary helps an answer to its end, inside and outside JSON strings."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        marks = Marks.among(vocabulary.names)
        self._ends = [token_id for mark, token_id in marks.ids.items() if mark.name.startswith("END_")]
        self._begins = [marks.ids[mark] for mark in Mark if mark in marks.ids and marks.ids[mark] not in self._ends]
        self._token_bytes = [
            b"" if token_id in marks.of_id else token
            for token_id, token in enumerate(vocabulary.token_bytes[:vocab_size])
        ]
        self._order = tuple(self._sorted(kinds, vocab_size) for kinds in (_OUTSIDE_STRINGS, _IN_STRINGS))

    def _sorted(self, kinds: tuple[tuple[bytes, bool], ...], vocab_size: int) -> NDArray[np.int64]:
        """Token ids, best first."""
        patterns = [(re.compile(pattern, re.DOTALL), longest) for pattern, longest in kinds]
        costs = np.full(vocab_size, _NEVER, dtype=np.int64)
        for token_id, token in enumerate(self._token_bytes):
            if token:
                rank, longest = next(
                    (rank, longest) for rank, (pattern, longest) in enumerate(patterns, 1) if pattern.fullmatch(token)
                )
                costs[token_id] = rank * 2 * _LONGEST_TOKEN + (-len(token) if longest else len(token))
        costs[self._begins] = (len(kinds) + 2) * 2 * _LONGEST_TOKEN
        costs[self._ends] = 0
        order = costs.argsort(kind="stable")
        return order[: int((costs < _NEVER).sum())]

    def text(self, token_id: int) -> bytes:
        """The bytes of a token; none for marks, end tokens and padding."""
        return self._token_bytes[token_id] if token_id < len(self._token_bytes) else b""

    def shortest(self, matcher: LLMatcher, scanner: StringScanner, most: int) -> list[int] | None:
        """Token ids from here to an end; None if `most` are not enough. Matcher and scanner stay as they are."""
        matcher, scanner = matcher.deep_copy(), replace(scanner)
        way: list[int] = []
        while not matcher.is_accepting():
            token_id = self._best(matcher.compute_bitmask(), scanner.in_string)
            if token_id is None or len(way) == most or not matcher.consume_token(token_id):
                return None
            scanner.read(self.text(token_id))
            way.append(token_id)
        return way

    def _best(self, mask: bytes, in_string: bool) -> int | None:
        bits, order = np.frombuffer(mask, dtype=np.uint8), self._order[in_string]
        for token_ids in (order[:_FIRST], order[_FIRST:]):
            allowed = bits[token_ids >> 3] >> (token_ids & 7) & 1
            if len(allowed) and allowed[best := int(allowed.argmax())]:
                return int(token_ids[best])
        return None


class Ending:
    """Sees to it that one answer comes to its end."""

    def __init__(self, table: EndingTable) -> None:
        self._table = table
        self._scanner = StringScanner()
        self._found: list[int] | None = []  # the ending last found; None: none was
        self._way: deque[int] = deque()  # what is still to be written of it
        self.begun = False  # from now on the ending is written, whatever is drawn

    @property
    def written(self) -> bool:
        return self.begun and not self._way

    def take(self, matcher: LLMatcher, drawn: int, left: int) -> int:
        """The token to write: the drawn one, or one of the ending if `left` tokens would else not suffice.

        `matcher` has not consumed it yet; `left` counts it.
        """
        if not self.begun and self._is_time(left) and not self._fits(matcher, drawn, left):
            way = self._table.shortest(matcher, self._scanner, left)
            if way:
                self.begun, self._way = True, deque(way)
        token_id = self._way.popleft() if self._way else drawn
        self._scanner.read(self._table.text(token_id))
        return token_id

    def _is_time(self, left: int) -> bool:
        if left > _FARTHEST:
            return False
        # None found is not none there: let the model go on, and look again later.
        return left % _CLOSE == 0 or (self._found is not None and left <= len(self._found) + _CLOSE)

    def _fits(self, matcher: LLMatcher, drawn: int, left: int) -> bool:
        after = matcher.deep_copy()
        if not after.consume_token(drawn):
            return True  # an error, which is not ours to tell
        scanner = replace(self._scanner)
        scanner.read(self._table.text(drawn))
        known = self._found or []
        # Mostly the ending stays as it was: a quotation mark and two brackets, however long the string grows.
        ways = (way for way in (known[1:], known) if _ends(after, way))
        self._found = next(ways, None) or self._table.shortest(after, scanner, _FARTHEST)
        return self._found is None or len(self._found) < left


def _ends(matcher: LLMatcher, way: list[int]) -> bool:
    trial = matcher.deep_copy()
    return trial.try_consume_tokens(way) == len(way) and trial.is_accepting()
