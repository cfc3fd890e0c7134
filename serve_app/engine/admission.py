"""From a prompt to a sequence the loop can run: everything that can be refused is refused here."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.output.parser import OutputParser, reasoning_is_open
from serve_app.engine.sampling.logprobs import MAX_TOP
from serve_app.engine.sequence import Sequence, Sink
from serve_app.engine.structured.grammar import is_constrained
from serve_app.engine.structured.grammar_completion import CompletionTable, GrammarCompletion
from serve_app.engine.structured.masks import GrammarCompiler
from serve_app.errors import ContextTooLong, InvalidRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher

Positions = Callable[[Prompt], tuple[NDArray[np.int64], int]]


class Admission:
    """What a model can be asked; any thread may call."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        vocab_size: int,
        stop_ids: frozenset[int],
        context_tokens: int,
        positions: Positions,
    ) -> None:
        self._vocabulary = vocabulary
        self._control_tokens = ControlTokens.of(vocabulary.names)
        self._vocab_size = vocab_size
        self._stop_ids = stop_ids
        self._context_tokens = context_tokens
        self._positions = positions
        self._thinking_end_ids = self._find_thinking_end_ids()
        self._completion_table = CompletionTable(vocabulary, vocab_size)
        self.grammars = GrammarCompiler(vocabulary, stop_ids, vocab_size)

    def matcher(self, prompt: Prompt) -> LLMatcher | None:
        """What holds a constrained prompt's answer, None for others; takes up to 100 ms for a new constraint."""
        self._check(prompt)
        if not is_constrained(prompt):
            return None
        return self.grammars.matcher(prompt, in_reasoning=reasoning_is_open(prompt, self._vocabulary))

    def sequence(self, prompt: Prompt, sink: Sink, arrived: float, matcher: LLMatcher | None = None) -> Sequence:
        """A new sequence; raises InvalidRequest, naming the field, for what this model can't do."""
        self._check(prompt)
        try:
            parser = OutputParser(self._vocabulary, prompt)
        except RecursionError as error:  # in a tool's schema
            raise InvalidRequest("the parameters of a tool are nested too deeply", "tools") from error
        positions, delta = self._positions(prompt)
        matcher = matcher or self.matcher(prompt)
        return Sequence(
            prompt=prompt,
            sink=sink,
            parser=parser,
            seed=secrets.randbits(63) if prompt.sampling.seed is None else prompt.sampling.seed,
            arrived=arrived,
            positions=positions,
            position_delta=delta,
            stop_ids=self._stop_ids,
            matcher=matcher,
            completion=GrammarCompletion(self._completion_table) if matcher is not None else None,
            thinking_end_ids=self._thinking_end_ids,
        )

    def _check(self, prompt: Prompt) -> None:
        rules = prompt.sampling
        tokens, answer = len(prompt.token_ids), rules.max_tokens or 0
        if tokens + answer > self._context_tokens:
            raise ContextTooLong(
                f"the prompt has {tokens} tokens and the answer may have {answer}; "
                f"together at most {self._context_tokens} fit",
                param="messages",
            )
        for token_id, _ in rules.logit_bias:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidRequest(
                    f"logit_bias names token {token_id}; ids go from 0 to {self._vocab_size - 1}", "logit_bias"
                )
        if rules.min_tokens > answer:
            raise InvalidRequest(f"min_tokens is {rules.min_tokens}, but max_tokens {answer}", "min_tokens")
        if rules.logprobs is not None and not 0 <= rules.logprobs <= MAX_TOP:
            raise InvalidRequest(f"top_logprobs is {rules.logprobs}; 0 to {MAX_TOP} can be reported", "top_logprobs")
        if is_constrained(prompt):
            for param, given in (("ignore_eos", rules.ignore_eos), ("min_tokens", rules.min_tokens)):
                if given:
                    raise InvalidRequest(f"{param} can't be combined with an answer of a given form", param)
        if prompt.tools is not None and not self._control_tokens.has_tool_calls:
            raise InvalidRequest("the served model has no tool calls", "tools")
        if (
            prompt.thinking.enabled
            and prompt.thinking.budget_tokens is not None
            and not self._control_tokens.has_reasoning
        ):
            raise InvalidRequest("the served model has no mark that ends its reasoning, so no budget", "thinking")

    def _find_thinking_end_ids(self) -> tuple[int, ...]:
        """`</think>` and what the family's template has after it: `<answer>`, or a newline."""
        if not self._control_tokens.has_reasoning:
            return ()
        newline = self._vocabulary.token_bytes.index(b"\n") if b"\n" in self._vocabulary.token_bytes else None
        following = self._control_tokens.ids.get(ControlToken.ANSWER, newline)
        return (self._control_tokens.ids[ControlToken.END_THINK], *(() if following is None else (following,)))
