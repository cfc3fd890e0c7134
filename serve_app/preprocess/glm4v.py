"""GLM-4.1V and GLM-4.6V: picture sizes by detail, picture tokens, prompts by the chat template."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import ChatRequest, Detail, Thinking
from serve_app.model_families import model_family
from serve_app.preprocess.chat_tokenizer import ChatTokenizer
from serve_app.preprocess.family_processor import ContextLimit, TokenizedPrompt, sort_abilities
from serve_app.preprocess.glm4v_grid import MAX_ASPECT_RATIO, AspectRatioTooLarge, Glm4vGrid
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.size_rule import SizeRule
from serve_app.preprocess.thinking import ends_with_nothink, resolve_thinking
from serve_app.settings import ModelSettings, PreprocessSettings


class Glm4vProcessor:
    """The family's processor for one checkpoint; all values come from the checkpoint's own files."""

    def __init__(
        self, folder: Path, config: dict[str, Any], model: ModelSettings, settings: PreprocessSettings
    ) -> None:
        """Raises InvalidRequest if a file is missing or of another family."""
        family = model_family(config, folder)
        self.max_pictures = family.max_pictures
        self._limit = ContextLimit(min(model.context_tokens, family.positions(config) or model.context_tokens))
        self._settings = settings
        self._grid = Glm4vGrid.of_checkpoint(folder)
        self._image_token = int(config["image_token_id"])
        self._chat = ChatTokenizer(folder, self._image_token)
        self.abilities = sort_abilities({"multiple_images", *self._chat.abilities})

    def context_limit(self, pictures: int) -> ContextLimit:
        return self._limit

    def size_rule(self, detail: Detail) -> SizeRule:
        most = self._settings.max_image_tokens
        if detail == "low":
            most = min(most, self._settings.low_detail_tokens)
        return SizeRule(grid=self._grid, max_tokens=most)

    def target_size(self, width: int, height: int, detail: Detail, label: ImageLabel) -> tuple[int, int]:
        """Sides are rounded to whole tokens; then, by `detail`:

        - `high` and `auto`: scaled down to the limits of the service (`preprocess.max_image_tokens`) and the
          checkpoint;
        - `low`: scaled down to `preprocess.low_detail_tokens`;
        - `original`: never scaled down. A picture above the limits is refused, with the tokens it would take.
        """
        rule = self.size_rule(detail)
        try:
            size = rule.size(width, height)
            original = self._grid.size(width, height, math.inf) if detail == "original" else size
        except AspectRatioTooLarge as error:
            raise label.rejected(
                f"is {width} x {height}; one side may be at most {MAX_ASPECT_RATIO} times the other. Crop it"
            ) from error
        if size != original:
            raise label.rejected(
                f"takes {self._grid.tokens(*original)} tokens at its original size, {width} x {height};"
                f" the limit is {min(rule.max_tokens, self._grid.max_tokens)}. Send a smaller picture or another detail"
            )
        return size

    def picture_tokens(self, width: int, height: int) -> int:
        return self._grid.tokens(width, height)

    def tokenize(self, request: ChatRequest, counts: Sequence[int], limit: int) -> TokenizedPrompt:
        if request.text is not None:
            raw = self._chat.encode_raw(request.text, limit, request.param, start=request.special_tokens)
            return TokenizedPrompt(raw, Thinking(enabled=False))
        if request.continue_last:  # reasoning is over where the answer's text has begun
            thinking = Thinking(enabled=False)
        else:
            thinking = resolve_thinking(request.thinking, self._chat.thinking, ends_with_nothink(request.messages))
        token_ids = self._chat.encode(
            request.messages, limit, request.tools, thinking.enabled, request.param, request.continue_last
        )
        return TokenizedPrompt(expand_placeholders(token_ids, self._image_token, counts), thinking)


def expand_placeholders(token_ids: NDArray[np.int32], image_token: int, counts: Sequence[int]) -> NDArray[np.int32]:
    """Repeat the n-th image placeholder `counts[n]` times, once for each token of its picture.

    The template has written `<|begin_of_image|><|image|><|end_of_image|>`.
    """
    repeats = np.ones(len(token_ids), dtype=np.int64)
    repeats[token_ids == image_token] = counts
    return np.repeat(token_ids, repeats)
