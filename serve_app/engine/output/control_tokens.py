"""The tokens by which GLM models structure an answer: reasoning, answer, boxes, tool calls.

In most checkpoints each is one added token, special or not, with an id of the checkpoint's own. Source:
the added tokens and chat templates of GLM-4.1V-9B-Thinking and GLM-4.5V / 4.6V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ControlToken(Enum):
    """What a token says; its value is how it is written."""

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
    """The token ids of the tokens that a vocabulary has, and back."""

    ids: Mapping[ControlToken, int]
    by_id: Mapping[int, ControlToken]

    @classmethod
    def of(cls, names: Mapping[str, int]) -> ControlTokens:
        """The tokens of a tokenizer's added tokens, given by content."""
        ids = {token: names[token.value] for token in ControlToken if token.value in names}
        return cls(ids, {token_id: token for token, token_id in ids.items()})

    @property
    def has_reasoning(self) -> bool:
        """Whether reasoning is marked by tokens."""
        return ControlToken.THINK in self.ids and ControlToken.END_THINK in self.ids

    @property
    def has_tool_calls(self) -> bool:
        """Whether tool calls can be told from text."""
        return all(token in self.ids for token in TOOL_CALL_TOKENS)
