"""The interface of a family's processor (prompts, picture sizes), and loading a checkpoint's processor."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import ChatRequest, Detail, Thinking
from serve_app.model_families import model_family
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.size_rule import SizeRule
from serve_app.settings import ModelSettings, PreprocessSettings

ABILITIES: Final = (
    "chat",
    "vision",
    "streaming",
    "multiple_images",
    "structured_output",
    "logprobs",
    "thinking",  # reasons before it answers
    "thinking_switch",  # reasoning can be switched on and off
    "thinking_budget",  # reasoning can be limited to a number of tokens
    "tools",
    "tool_images",  # pictures in tools' results
    "boxes",  # marks regions of a picture
)
_ALWAYS = {"chat", "vision", "streaming", "structured_output", "logprobs"}


@dataclass(frozen=True, slots=True)
class ContextLimit:
    """The maximum number of cache tokens that prompt and answer may take together."""

    tokens: int
    reason: str = ""  # where the limit comes from, if it is not the setting

    def __str__(self) -> str:
        return f"{self.tokens} tokens{self.reason and f' ({self.reason})'}"


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedPrompt:
    """A request as token ids."""

    token_ids: NDArray[np.int32]  # (tokens,), with as many placeholders for a picture as it takes tokens
    thinking: Thinking  # resolved


class FamilyProcessor(Protocol):
    """Prompts and picture sizes for one checkpoint, as the processors of transformers."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """What template and tokenizer can express, out of ABILITIES and in their order."""
        ...

    @property
    def max_pictures(self) -> int | None:
        """Maximum number of pictures in a conversation; None: as many as fit."""
        ...

    def context_limit(self, pictures: int) -> ContextLimit:
        """How long prompt and answer may be with this number of pictures."""
        ...

    def size_rule(self, detail: Detail) -> SizeRule:
        """How `target_size` chooses the size, without its refusals."""
        ...

    def target_size(self, width: int, height: int, detail: Detail, label: ImageLabel) -> tuple[int, int]:
        """(width, height) to which a picture of this size is resized; raises ImageRejected."""
        ...

    def picture_tokens(self, width: int, height: int) -> int:
        """Cache tokens of a picture that was resized to this size."""
        ...

    def tokenize(self, request: ChatRequest, counts: Sequence[int], limit: int) -> TokenizedPrompt:
        """The ids of a request whose n-th picture takes `counts[n]` tokens.

        Raises InvalidRequest for what the model can't do, and ContextTooLong for a text that is clearly
        longer than `limit` tokens; a prompt that is only a little longer is returned.
        """
        ...


def load_processor(folder: Path, model: ModelSettings, settings: PreprocessSettings) -> FamilyProcessor:
    """Read the checkpoint's tokenizer, template and sizes; raises InvalidRequest for a model that is not supported."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    processor: FamilyProcessor = model_family(config, folder).processor_class()(folder, config, model, settings)
    return processor


def sort_abilities(found: Collection[str]) -> tuple[str, ...]:
    """The abilities of every family and those found, in the order of ABILITIES."""
    return tuple(ability for ability in ABILITIES if ability in _ALWAYS or ability in found)
