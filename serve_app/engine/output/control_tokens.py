"""The marks by which GLM models structure an answer: reasoning, answer, boxes, tool calls.

In most checkpoints each is one added token, special or not, with an id of the checkpoint's own. Source:
the added tokens and chat templates of GLM-4.1V-9B-Thinking and GLM-4.5V / 4.6V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """What a mark says; its value is how it is written."""

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


TOOL_MARKS = (
    Mark.TOOL_CALL,
    Mark.END_TOOL_CALL,
    Mark.ARG_KEY,
    Mark.END_ARG_KEY,
    Mark.ARG_VALUE,
    Mark.END_ARG_VALUE,
)


@dataclass(frozen=True, slots=True)
class Marks:
    """The token ids of the marks that a vocabulary has, and back."""

    ids: Mapping[Mark, int]
    of_id: Mapping[int, Mark]

    @classmethod
    def among(cls, names: Mapping[str, int]) -> Marks:
        """The marks among a tokenizer's added tokens, given by content."""
        ids = {mark: names[mark.value] for mark in Mark if mark.value in names}
        return cls(ids, {token_id: mark for mark, token_id in ids.items()})

    @property
    def reason(self) -> bool:
        """Whether reasoning is marked by tokens."""
        return Mark.THINK in self.ids and Mark.END_THINK in self.ids

    @property
    def call_tools(self) -> bool:
        """Whether tool calls can be told from text."""
        return all(mark in self.ids for mark in TOOL_MARKS)
