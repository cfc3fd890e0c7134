"""Admission: checks what the engine cannot do, and makes the sequence of a prompt."""

from __future__ import annotations

import secrets

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.output.parser import OutputParser
from serve_app.engine.sequence import Sequence, Sink
from serve_app.engine.step_executor import ModelBackend
from serve_app.engine.structured.compiler import GrammarCompiler
from serve_app.engine.structured.draft import Drafter
from serve_app.engine.structured.grammar_completion import CompletionTable, GrammarCompletion
from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.settings import EngineSettings


class Admission:
    """Makes sequences for one model; any thread may call it."""

    def __init__(self, vocabulary: Vocabulary, model: ModelBackend, settings: EngineSettings) -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._thinking_end_ids = self._find_thinking_end_ids()
        self._completion_table = CompletionTable(vocabulary, model.vocab_size)
        self.grammars = GrammarCompiler(vocabulary, model.stop_ids, model.vocab_size, settings)

    def admit(self, prompt: Prompt, sink: Sink) -> Sequence:
        """The sequence of a prompt; compiling a new constraint takes up to 100 ms.

        Raises InvalidRequest or ContextTooLong, naming the field, for what this model cannot do.
        """
        self._check(prompt)
        try:
            parser = OutputParser(self._vocabulary, prompt)
        except RecursionError as error:  # in a tool's schema
            raise InvalidRequest("The parameters of a tool are nested too deeply.", "tools") from error
        positions, delta = self._model.positions(prompt)
        matcher = self.grammars.matcher(prompt, in_reasoning=parser.in_reasoning) if prompt.is_constrained else None
        return Sequence(
            prompt=prompt,
            sink=sink,
            parser=parser,
            seed=secrets.randbits(63) if prompt.sampling.seed is None else prompt.sampling.seed,
            positions=positions,
            position_delta=delta,
            stop_ids=self._model.stop_ids,
            matcher=matcher,
            completion=GrammarCompletion(self._completion_table) if matcher is not None else None,
            drafter=Drafter(self.grammars.tokenizer(), self._completion_table) if matcher is not None else None,
            thinking_end_ids=self._thinking_end_ids,
        )

    def _check(self, prompt: Prompt) -> None:
        """Refuse what would break a step or cannot be answered; preprocess and the routes check all else."""
        sampling, control_tokens = prompt.sampling, self._vocabulary.control_tokens
        tokens, answer = len(prompt.token_ids), sampling.max_tokens or 0
        if tokens + answer > self._model.context_tokens:
            raise ContextTooLong(
                f"The prompt has {tokens} tokens and the answer may have {answer}; "
                f"together at most {self._model.context_tokens} are allowed.",
                param="messages",
            )
        for token_id, _ in sampling.logit_bias:
            if not 0 <= token_id < self._model.vocab_size:
                raise InvalidRequest(
                    f"logit_bias names token {token_id}; token ids go from 0 to {self._model.vocab_size - 1}.",
                    "logit_bias",
                )
        if prompt.is_constrained:
            for param, value in (("ignore_eos", sampling.ignore_eos), ("min_tokens", sampling.min_tokens)):
                if value:
                    raise InvalidRequest(f"{param} can't be combined with a constraint on the answer.", param)
        if prompt.tools is not None and not control_tokens.has_tool_calls:
            raise InvalidRequest("The served model does not support tools. Send the request without 'tools'.", "tools")
        budget = prompt.thinking.budget_tokens if prompt.thinking.enabled else None
        if budget is not None and not control_tokens.has_reasoning:
            raise InvalidRequest(
                "The served model does not support a thinking budget: it has no token that ends its reasoning.",
                "thinking",
            )

    def _find_thinking_end_ids(self) -> tuple[int, ...]:
        """`</think>` and what the family's template writes after it: `<answer>` or a newline."""
        ids = self._vocabulary.control_tokens.ids
        if not self._vocabulary.control_tokens.has_reasoning:
            return ()
        newline = self._vocabulary.token_bytes.index(b"\n") if b"\n" in self._vocabulary.token_bytes else None
        following = ids.get(ControlToken.ANSWER, newline)
        return (ids[ControlToken.END_THINK], *(() if following is None else (following,)))
