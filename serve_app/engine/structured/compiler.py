"""Grammar compiler: the constraint of a prompt to an llguidance matcher, sandboxed and cached.

Two caches: compiled grammars, which are large, and the verdicts of the sandbox, by hash. A grammar that was accepted
or refused once does not go to the sandbox again, and neither does one that contains nothing of a caller's.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Generic, TypeVar

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.structured.grammar import build_grammar, constrained_field
from serve_app.engine.structured.grammar_sandbox import DEFAULT_LIMITS, GrammarSandbox
from serve_app.engine.structured.sandbox_process import GuidanceVocabulary, parser_limits
from serve_app.errors import EngineFailed, InvalidRequest
from serve_app.settings import EngineSettings

log = logging.getLogger("glm.engine")

_MAX_COMPILED, _MAX_ACCEPTED, _MAX_REFUSED = 64, 4096, 1024
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class GrammarCompiler:
    """Compiles the grammars of constrained prompts in 1 to 100 ms each; any thread may call it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop_ids: frozenset[int],
        vocab_size: int,
        limits: EngineSettings = DEFAULT_LIMITS,
    ) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = stop_ids
        self._vocab_size = vocab_size
        self._tokenizer: LLTokenizer | None = None
        self._compiled = _RecentlyUsed[str, LLMatcher](_MAX_COMPILED)  # by grammar; copied, never advanced
        # Apart, so that no number of bad grammars displaces a good one.
        self._accepted = _RecentlyUsed[bytes, str](_MAX_ACCEPTED)  # by SHA-256 of the grammar
        self._refused = _RecentlyUsed[bytes, str](_MAX_REFUSED)  # the errors
        self._checks: dict[bytes, Future[str]] = {}  # that run now: the same grammar is checked once
        self._lock = threading.Lock()
        self._sandbox = GrammarSandbox((token.value for token in ControlToken), limits)

    def matcher(self, prompt: Prompt, in_reasoning: bool) -> LLMatcher:
        """A matcher at the start of a constrained prompt's answer.

        Raises InvalidRequest with the library's reason if the constraint is not supported, Overloaded if too many new
        constraints wait for the sandbox.
        """
        param = constrained_field(prompt)
        # Its grammar contains nothing of the caller's.
        trusted = prompt.tools is None and prompt.constraint is not None and prompt.constraint.kind == "json_object"
        try:
            grammar = build_grammar(prompt, self._vocabulary.control_tokens, self._stop_ids, in_reasoning)
            grammar.encode()  # refuses lone surrogates
        except RecursionError as error:
            raise InvalidRequest(f"{param} is nested too deeply.", param) from error
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{param} contains half a character (a lone surrogate).", param) from error
        if (known := self._compiled.get(grammar)) is not None:
            return known.deep_copy()
        if not trusted and (error_text := self._verdict(grammar, param)):
            raise InvalidRequest(f"{param} is not supported: {error_summary(error_text)}", param)
        matcher = LLMatcher(self.tokenizer(), grammar, log_level=0, limits=parser_limits())
        matcher.compute_bitmask()  # a grammar too large for a step fails here
        if matcher.is_error():
            raise InvalidRequest(f"{param} is not supported: {error_summary(matcher.get_error())}", param)
        self._compiled.put(grammar, matcher)
        return matcher.deep_copy()

    def _verdict(self, grammar: str, param: str) -> str:
        """The sandbox's error of a grammar, "" if there is none; each grammar goes to the sandbox once."""
        key = hashlib.sha256(grammar.encode()).digest()
        for cache in (self._accepted, self._refused):
            if (verdict := cache.get(key)) is not None:
                return verdict
        with self._lock:
            check = self._checks.get(key)
            if first := check is None:
                check = self._checks[key] = Future()
        if first:
            try:
                verdict = self._sandbox.check(grammar)
                (self._refused if verdict else self._accepted).put(key, verdict)
                check.set_result(verdict)
            except BaseException as error:
                check.set_exception(error)
            finally:
                del self._checks[key]
        try:
            return check.result()
        except OSError as error:
            log.exception("The grammar sandbox failed.")
            raise EngineFailed(f"{param} could not be compiled.") from error

    def tokenizer(self) -> LLTokenizer:
        """The vocabulary for llguidance; made once, in half a second for 150,000 tokens."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _tokenizer(self._vocabulary, self._stop_ids, self._vocab_size)
            return self._tokenizer

    def close(self) -> None:
        """End the processes of the sandbox."""
        self._sandbox.close()


class _RecentlyUsed(Generic[_Key, _Value]):
    """A cache that evicts the least recently used entry; any thread may call it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _Key) -> _Value | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: _Key, value: _Value) -> None:
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._size:
                self._values.popitem(last=False)


def constraint_failure(prompt: Prompt, matcher: LLMatcher) -> InvalidRequest:
    """The error of a constraint that exceeds the limits of a step; some do so only far into the answer."""
    param = constrained_field(prompt)
    return InvalidRequest(f"{param} is too complex: {error_summary(matcher.get_error())} Use a simpler one.", param)


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
