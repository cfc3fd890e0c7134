"""Control tokens that structure the answers of GLM models: reasoning, answer, boxes, tool calls.

In most checkpoints each is one added token, special or not; ids differ between checkpoints. Source:
the added tokens and chat templates of GLM-4.1V-9B-Thinking and GLM-4.5V / 4.6V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ControlToken(Enum):
    """A control token; the value is its text."""

    THINK = "<think>"
    END_THINK = "</think>"
    ANSWER = "<answer>"
    END_ANSWER = "</answer>"
    BOX = "<|begin_of_box|>"
    END_BOX = "<|end_of_box|>"
    TOOL_CALL = "<tool_call>"
    END_TOOL_CALL = "</tool_call>"
    ARG_KEY = "<arg_key>"
    END_ARG_KEY = "</arg_key>"
    ARG_VALUE = "<arg_value>"
    END_ARG_VALUE = "</arg_value>"


TOOL_CALL_TOKENS = (
    ControlToken.TOOL_CALL,
    ControlToken.END_TOOL_CALL,
    ControlToken.ARG_KEY,
    ControlToken.END_ARG_KEY,
    ControlToken.ARG_VALUE,
    ControlToken.END_ARG_VALUE,
)


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Control tokens of a vocabulary: their ids, and the control token of an id."""

    ids: Mapping[ControlToken, int]
    by_id: Mapping[int, ControlToken]

    @classmethod
    def of(cls, names: Mapping[str, int]) -> ControlTokens:
        """The control tokens among a tokenizer's added tokens, which are given as content to id."""
        ids = {token: names[token.value] for token in ControlToken if token.value in names}
        return cls(ids, {token_id: token for token, token_id in ids.items()})

    @property
    def has_reasoning(self) -> bool:
        """Whether reasoning has control tokens."""
        return ControlToken.THINK in self.ids and ControlToken.END_THINK in self.ids

    @property
    def has_tool_calls(self) -> bool:
        """Whether tool calls have control tokens."""
        return all(token in self.ids for token in TOOL_CALL_TOKENS)
