"""Grammar compiler: the constraint of a prompt to an llguidance matcher, sandboxed and cached."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.structured.grammar import build_grammar
from serve_app.engine.structured.grammar_sandbox import GrammarSandbox, GuidanceVocabulary, parser_limits
from serve_app.errors import EngineFailed, InvalidRequest

log = logging.getLogger("glm.engine")

_MAX_CACHED_GRAMMARS = 64


class GrammarCompiler:
    """Compiles the grammars of constrained prompts in 1 to 100 ms each; any thread may call it."""

    def __init__(self, vocabulary: Vocabulary, stop_ids: frozenset[int], vocab_size: int) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()  # by grammar; copied, never advanced
        self._lock = threading.Lock()
        self._sandbox = GrammarSandbox(token.value for token in ControlToken)

    def matcher(self, prompt: Prompt, in_reasoning: bool) -> LLMatcher:
        """A matcher at the start of a constrained prompt's answer.

        Raises InvalidRequest with the library's reason if the constraint is not supported.
        """
        constraint = prompt.constraint
        param = "tools" if constraint is None else constraint.param
        try:
            grammar = build_grammar(prompt, self._vocabulary.control_tokens, self._stop_ids, in_reasoning)
            grammar.encode()  # refuses lone surrogates
            return self._compile(grammar, param).deep_copy()
        except RecursionError as error:
            raise InvalidRequest(f"{param} is nested too deeply.", param) from error
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{param} contains half a character (a lone surrogate).", param) from error

    def _compile(self, grammar: str, param: str) -> LLMatcher:
        with self._lock:
            if (matcher := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return matcher
        try:
            error_text = self._sandbox.check(grammar)
        except OSError as error:
            log.exception("The grammar sandbox failed.")
            raise EngineFailed(f"{param} could not be compiled.") from error
        if error_text:
            raise InvalidRequest(f"{param} is not supported: {error_summary(error_text)}", param)
        matcher = LLMatcher(self.tokenizer(), grammar, log_level=0, limits=parser_limits())
        matcher.compute_bitmask()  # a grammar too large for a step fails here
        if matcher.is_error():
            raise InvalidRequest(f"{param} is not supported: {error_summary(matcher.get_error())}", param)
        with self._lock:
            self._compiled[grammar] = matcher
            if len(self._compiled) > _MAX_CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        return matcher

    def tokenizer(self) -> LLTokenizer:
        """The vocabulary for llguidance; made once, in half a second for 150,000 tokens."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._vocabulary, self._stop_ids, self._vocab_size)
            return self._tokenizer

    def close(self) -> None:
        """End the process of the sandbox."""
        self._sandbox.close()


def error_summary(error: str) -> str:
    """The one line of an llguidance error that says what is wrong."""
    lines = error.splitlines()
    for line in lines:
        if line.startswith("error: "):  # of the regex parser, below a copy of the pattern
            return line.removeprefix("error: ").rstrip(".") + "."
    first = lines[0].removeprefix("failed to compile JSON schema: ")
    place, _, rest = first.partition(": ")
    if place.startswith("at ") and rest:
        first = rest.removeprefix("failed to compile JSON schema: ")
    return first.split(" (in regex)")[-1].removeprefix(": ")[:500].rstrip(".") + "."


def _tokenizer(vocabulary: Vocabulary, stop_ids: frozenset[int], vocab_size: int) -> LLTokenizer:
    """Tokens without bytes and name (padding rows of the head) are in no grammar, so they are never allowed."""
    tokens = [*vocabulary.token_bytes, *[b""] * (vocab_size - len(vocabulary.token_bytes)), b"<no end>"]
    special = {index: f"<end {index}>" for index in stop_ids if not tokens[index]}
    for name, index in vocabulary.names.items():
        if index < vocab_size and (not tokens[index] or index in vocabulary.control_tokens.by_id):
            special[index] = name
    for index, name in special.items():
        tokens[index] = name.encode()
    # A model without an end token gets one outside of its vocabulary.
    ends = sorted(stop_ids) or [len(tokens) - 1]
    wrapped = GuidanceVocabulary(tokens, sorted({*special, len(tokens) - 1}), ends[0])
    return LLTokenizer(TokenizerWrapper(wrapped), eos_token=ends)
