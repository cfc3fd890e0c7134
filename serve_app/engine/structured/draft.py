"""Drafts: the probable next tokens of a constrained answer, predicted from its grammar.

Where the grammar leaves one continuation, such as the rest of a key, its bytes are cut into tokens, the longest first.
A draft is only a guess: a model may cut the same bytes in another way. The tokens enter the model as one piece, and
each is accepted only if it is the token that is sampled at its place, so an answer is the same with and without drafts.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from serve_app.engine.structured.grammar_completion import CompletionTable, StringScanner

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MOST_TOKENS = 16  # of one draft
_MOST_BYTES = 128
_SPECIAL_TOKEN = re.compile(rb"(\xff\[\d+\])")  # as llguidance writes it in forced bytes


class Drafter:
    """Drafts the continuations of one constrained answer.

    After a comma or a colon outside of strings the grammar allows one space. A draft contains it, until an answer has
    shown that its model leaves it out.
    """

    def __init__(self, tokenizer: LLTokenizer, table: CompletionTable) -> None:
        self._tokenizer = tokenizer
        self._table = table
        self._spaced = True
        self._draft: list[int] = []  # the last one
        self._start = 0  # tokens of the answer before it
        self._refused = b""  # bytes of the last draft from its first token that was not sampled

    def draft(self, matcher: LLMatcher, scanner: StringScanner, generated: list[int], most: int) -> list[int]:
        """At most `most` tokens that probably follow `generated`, which `matcher` and `scanner` have read."""
        self._learn(generated)
        content = self._continuation(matcher, scanner, generated)
        if self._refused.endswith(content):  # the same bytes once more, or none
            return []
        self._refused = b""
        self._draft, self._start = self._tokens(content)[: min(most, MOST_TOKENS)], len(generated)
        return self._draft

    def _learn(self, generated: list[int]) -> None:
        """Compare the last draft with what followed."""
        for place, (drafted, sampled) in enumerate(zip(self._draft, generated[self._start :], strict=False)):
            if drafted != sampled:
                rest = self._draft[place:]
                if self._table.text(drafted).startswith(b" "):
                    self._spaced = self._table.text(sampled).startswith(b" ")
                self._refused = b"".join(map(self._table.text, rest))
                self._draft = []
                return

    def _continuation(self, matcher: LLMatcher, scanner: StringScanner, generated: list[int]) -> bytes:
        """The bytes that the grammar forces; where it allows an optional space, that is assumed, and what follows."""
        # On a copy: a matcher in which a special token is forced refuses every token after this call.
        matcher, scanner = matcher.deep_copy(), replace(scanner)
        content = forced = matcher.compute_ff_bytes()
        before = self._table.text(generated[-1]) if generated else b""
        while self._spaced and len(content) < _MOST_BYTES:
            tokens = self._tokens(forced)
            if matcher.try_consume_tokens(tokens) < len(tokens):
                break
            scanner.read(forced)
            at_space = (before + content)[-1:] in (b",", b":") and not scanner.in_string
            if not at_space or matcher.try_consume_tokens(self._tokens(b" ")) != 1:
                break
            forced = matcher.compute_ff_bytes()
            content += b" " + forced
        return content

    def _tokens(self, content: bytes) -> list[int]:
        """The token ids of bytes, an incomplete character at the end left out; none if it begins within a character."""
        found: list[int] = []
        for part in _SPECIAL_TOKEN.split(content):
            if _SPECIAL_TOKEN.fullmatch(part):
                found.append(int(part[2:-1]))
            elif part:
                found += self._tokenizer.greedy_tokenize(_complete_characters(part))
        return found


def _complete_characters(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return content[: error.start].decode()
