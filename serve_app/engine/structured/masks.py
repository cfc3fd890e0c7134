"""Grammars to masks of allowed tokens: compiled by llguidance, kept, filled for a whole batch at once.

A mask is a row of bits, one for each token id, in 32-bit words, lowest bit first. Masks are filled on
the CPU while a GPU computes the logits that they will be laid over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.sequence import Sequence
from serve_app.engine.structured.grammar import build_grammar
from serve_app.engine.structured.grammar_sandbox import GrammarSandbox, GuidanceVocabulary, parser_limits
from serve_app.errors import EngineFailed, InvalidRequest

log = logging.getLogger("glm.engine")

_MAX_CACHED_GRAMMARS = 64
_SERIAL_FILL_S = 0.5e-3


class GrammarCompiler:
    """Compiles the grammars of constrained prompts; any thread may ask, compiling takes 1 to 100 ms."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: frozenset[int], vocab_size: int) -> None:
        self._vocabulary = vocabulary
        self._control_tokens = ControlTokens.of(vocabulary.names)
        self._stop_ids = stop_ids
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()  # by grammar; copied, never advanced
        self._lock = threading.Lock()
        self._sandbox = GrammarSandbox(token.value for token in ControlToken)

    def matcher(self, prompt: Prompt, in_reasoning: bool) -> LLMatcher:
        """A matcher at the start of a constrained prompt's answer.

        Raises InvalidRequest with the library's reason if the constraint can't be kept to.
        """
        constraint = prompt.constraint
        param = "tools" if constraint is None else constraint.param
        try:
            grammar = build_grammar(prompt, self._control_tokens, self._stop_ids, in_reasoning)
            grammar.encode()  # refuses lone surrogates
            return self._compile(grammar, param).deep_copy()
        except RecursionError as error:
            raise InvalidRequest(f"{param} is nested too deeply", param) from error
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{param} holds half a character (a lone surrogate)", param) from error

    def _compile(self, grammar: str, param: str) -> LLMatcher:
        with self._lock:
            if (matcher := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return matcher
        try:
            error_text = self._sandbox.check(grammar)
        except OSError as error:
            log.exception("a grammar could not be tried")
            raise EngineFailed(f"{param} could not be prepared") from error
        if error_text:
            raise InvalidRequest(f"{param} can't be kept to: {error_summary(error_text)}", param)
        matcher = LLMatcher(self.tokenizer(), grammar, log_level=0, limits=parser_limits())
        matcher.compute_bitmask()  # what is too large for a step shows here, before anyone waits for it
        if matcher.is_error():
            raise InvalidRequest(f"{param} can't be kept to: {error_summary(matcher.get_error())}", param)
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _MAX_CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        return matcher

    def tokenizer(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it; made once, half a second for 150,000 tokens."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._vocabulary, self._stop_ids, self._vocab_size)
            return self._tokenizer

    def close(self) -> None:
        """End the process that tries grammars."""
        self._sandbox.close()


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """The masks of a step's constrained rows; `failed` are rows whose grammar gave up, and why."""

    rows: list[int]
    bits: NDArray[np.int32]  # (constrained rows, words)
    failed: dict[int, EngineFailed]

    def allows(self, row: int, token_id: int) -> bool:
        """Whether a row may draw a token; rows without a mask may draw any."""
        if row not in self.rows:
            return True
        return bool(self.bits[self.rows.index(row), token_id // 32] >> (token_id % 32) & 1)


class MaskFiller:
    """Fills the masks of all constrained rows of a step."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        # Page-locked, so that the copy to a GPU does not wait for it.
        words = torch.zeros((slots, -(-(vocab_size + 1) // 32)), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._words: NDArray[np.int32] = words.numpy()
        self._executor = LLExecutor()

    def fill(self, sequences: list[Sequence]) -> TokenMasks | None:
        """The masks of a batch, None if no row is constrained; they hold until the next call."""
        rows = [row for row, sequence in enumerate(sequences) if sequence.matcher is not None]
        if not rows:
            return None
        matchers = [matcher for sequence in sequences if (matcher := sequence.matcher) is not None]
        bits = self._words[: len(rows)]
        self._fill(matchers, bits)
        failed = {
            row: EngineFailed(f"the answer's constraint could not be followed: {error_summary(matcher.get_error())}")
            for row, matcher in zip(rows, matchers, strict=True)
            if matcher.is_error()
        }
        return TokenMasks(rows, bits, failed)

    def _fill(self, matchers: list[LLMatcher], bits: NDArray[np.int32]) -> None:
        """Most masks take 10 µs, less than it takes to wake a thread; once some were slow, threads share the rest."""
        started = time.perf_counter()
        for index, matcher in enumerate(matchers):
            if time.perf_counter() - started > _SERIAL_FILL_S:
                rest = list(zip(matchers, range(len(matchers)), strict=True))[index:]
                fill_next_token_bitmask_par(self._executor, rest, bits)
                return
            fill_next_token_bitmask(matcher, bits, index)


def error_summary(error: str) -> str:
    """The one sentence that matters of a report by llguidance."""
    lines = error.splitlines()
    for line in lines:
        if line.startswith("error: "):  # of the pattern parser, below a drawing of the place
            return line.removeprefix("error: ")
    first = lines[0].removeprefix("failed to compile JSON schema: ")
    place, _, rest = first.partition(": ")
    if place.startswith("at ") and rest:
        first = rest.removeprefix("failed to compile JSON schema: ")
    return first.split(" (in regex)")[-1].removeprefix(": ")[:500]


def _tokenizer(vocabulary: Vocabulary, stop_ids: frozenset[int], vocab_size: int) -> LLTokenizer:
    """Tokens without bytes and name (padding rows of the head) are part of no grammar, so never allowed."""
    tokens = [*vocabulary.token_bytes, *[b""] * (vocab_size - len(vocabulary.token_bytes)), b"<no end>"]
    control_tokens = ControlTokens.of(vocabulary.names)
    special = {index: f"<end {index}>" for index in stop_ids if not tokens[index]}
    for name, index in vocabulary.names.items():
        if index < vocab_size and (not tokens[index] or index in control_tokens.by_id):
            special[index] = name
    for index, name in special.items():
        tokens[index] = name.encode()
    # A model without an end token gets one beside the vocabulary, which it can't draw.
    ends = sorted(stop_ids) or [len(tokens) - 1]
    wrapped = GuidanceVocabulary(tokens, sorted({*special, len(tokens) - 1}), ends[0])
    return LLTokenizer(TokenizerWrapper(wrapped), eos_token=ends)
