"""What a prompt says about the form of its answer, and whether its template opened or closed reasoning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Prompt
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How an answer is parsed."""

    raw: bool  # as text only
    thinking: bool  # is enabled
    control_tokens_are_text: bool  # the vocabulary has none for reasoning
    may_hold: bool  # text may be reasoning; a grammar allows no `</think>` without `<think>`
    may_begin_in_reasoning: bool
    keep_newlines: bool

    @classmethod
    def of(cls, prompt: Prompt, vocabulary: Vocabulary) -> AnswerForm:
        """The form of a prompt's answer."""
        thinking = bool(prompt.thinking.enabled) and not prompt.raw
        constraint = prompt.constraint
        return cls(
            raw=prompt.raw,
            thinking=thinking,
            control_tokens_are_text=thinking and not vocabulary.control_tokens.has_reasoning,
            may_hold=not (prompt.raw or prompt.is_constrained),
            may_begin_in_reasoning=thinking and not _reasoning_is_closed(prompt, vocabulary),
            keep_newlines=prompt.raw
            or prompt.continues
            or (constraint is not None and constraint.kind in ("regex", "choice")),
        )


def reasoning_is_open(prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether a prompt ends inside reasoning, because its template writes `<think>` where the answer begins."""
    token_ids = prompt.token_ids[_last(prompt.token_ids, vocabulary.names.get("<|assistant|>")) + 1 :]
    control_tokens = vocabulary.control_tokens
    if control_tokens.has_reasoning:
        begin, end = (control_tokens.ids[token] for token in (ControlToken.THINK, ControlToken.END_THINK))
        return _last(token_ids, begin) > _last(token_ids, end)
    if not prompt.thinking.enabled or "<|assistant|>" not in vocabulary.names:
        return False
    text = b"".join(vocabulary.token_bytes[token_id] for token_id in token_ids)
    return text.rstrip().endswith(ControlToken.THINK.value.encode())


def _reasoning_is_closed(prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether the template wrote `</think>` where the answer begins."""
    token_ids = prompt.token_ids[_last(prompt.token_ids, vocabulary.names.get("<|assistant|>")) + 1 :]
    return _last(token_ids, vocabulary.control_tokens.ids.get(ControlToken.END_THINK)) >= 0


def _last(token_ids: NDArray[np.int32], token_id: int | None) -> int:
    """Index of the last occurrence, -1 if there is none."""
    places = [] if token_id is None else np.flatnonzero(token_ids == token_id).tolist()
    return places[-1] if places else -1
