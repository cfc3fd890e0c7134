"""Buffer that returns the logprobs of tokens together with the text of the tokens."""

from __future__ import annotations

from collections import deque

from serve_app.contracts import TokenLogprob


class LogprobBuffer:
    """Keeps the logprobs of tokens until their characters are emitted.

    A token belongs to the first of its characters; a token with only a part of a character, to that
    character. Logprobs of text that is never emitted (a stop string, dropped white space) are dropped.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # (index of the token's first character, logprob)
        self._pushed = 0  # characters
        self._emitted = 0

    def push(self, logprob: TokenLogprob, characters: int) -> None:
        """Add a token that completed this many characters."""
        self._waiting.append((self._pushed, logprob))
        self._pushed += characters

    def pop(self, characters: int) -> tuple[TokenLogprob, ...]:
        """The tokens of the next characters that are emitted."""
        self._emitted += characters
        found = []
        while self._waiting and self._waiting[0][0] < self._emitted:
            found.append(self._waiting.popleft()[1])
        return tuple(found)

    def rest(self) -> tuple[TokenLogprob, ...]:
        """The tokens after the last character: control tokens, which have none."""
        found = tuple(logprob for at, logprob in self._waiting if at >= self._pushed)
        self._waiting.clear()
        return found

    def skip(self, characters: int) -> None:
        """Drop characters; their tokens are returned with the next ones."""
        self._emitted += characters

    def reset(self, characters: int = 0) -> None:
        """Start another channel, which has this many characters already; drop what is buffered."""
        self._waiting.clear()
        self._pushed, self._emitted = characters, 0
