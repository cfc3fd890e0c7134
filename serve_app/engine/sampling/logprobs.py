"""The logprobs of tokens, told together with the characters that the tokens stand for."""

from __future__ import annotations

from collections import deque

from serve_app.contracts import TokenLogprob

MAX_TOP = 20


class LogprobBuffer:
    """Hands out the logprobs of tokens as the characters that they stand for are told.

    A token is told with the first of its characters; one that only begins or continues a character, with
    that character. Tokens of text that is never told (a stop string, white space before a mark) are not.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # with the place of the token's first character
        self._pushed = 0  # characters
        self._emitted = 0

    def push(self, logprob: TokenLogprob, characters: int) -> None:
        """A token came that made this many characters whole."""
        self._waiting.append((self._pushed, logprob))
        self._pushed += characters

    def pop(self, characters: int) -> tuple[TokenLogprob, ...]:
        """The tokens behind the next characters that are told."""
        self._emitted += characters
        found = []
        while self._waiting and self._waiting[0][0] < self._emitted:
            found.append(self._waiting.popleft()[1])
        return tuple(found)

    def skip(self, characters: int) -> None:
        """Characters are dropped; their tokens go with the next ones."""
        self._emitted += characters

    def reset(self, characters: int = 0) -> None:
        """Another channel begins, with characters that are there already; what waits is never told."""
        self._waiting.clear()
        self._pushed, self._emitted = characters, 0
