"""GLM-4.1V, 4.5V and 4.6V: the size a picture is seen at, its tokens, and prompts by the template.

Same arithmetic as `smart_resize` of transformers' image_processing_pil_glm4v.py (glm46v has the same).
Pixel budgets count frames: a still picture is repeated to fill one temporal patch, so it counts twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.checkpoint import image_processor_settings
from serve_app.contracts import ChatRequest, Detail, Thinking
from serve_app.errors import InvalidRequest
from serve_app.preprocess.conversation import asks_not_to_think
from serve_app.preprocess.family import Context, Reading, in_order
from serve_app.preprocess.images import Name
from serve_app.preprocess.prompt import ChatTokenizer
from serve_app.preprocess.thinking import resolve
from serve_app.settings import ModelSettings, PreprocessSettings

MODEL_TYPES = ("glm4v", "glm46v", "glm4v_moe")
MAX_ASPECT = 200  # the family's processor refuses more


class AspectTooLong(ValueError):
    """One side is more than 200 times the other."""


@dataclass(frozen=True, slots=True)
class Glm4vGrid:
    """How the family cuts a picture into patches; from the checkpoint's preprocessor_config.json.

    Defaults are those of the processor's class, for what a checkpoint does not say.
    """

    patch_size: int = 14
    merge_size: int = 2  # patches a side that become one token
    temporal_patch_size: int = 2
    shortest_edge: int = 112 * 112  # least frames x height x width
    longest_edge: int = 28 * 28 * 15000  # most frames x height x width

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "Glm4vGrid":
        """Read the checkpoint's grid; raises InvalidRequest if it is of another family or unreadable."""
        settings = image_processor_settings(folder)
        size = settings.get("size", {})
        if size and not {"shortest_edge", "longest_edge"} <= size.keys():
            raise InvalidRequest(
                f"preprocessor_config.json in {folder} gives no size.shortest_edge and size.longest_edge",
                param="model.path",
            )
        wanted = {**settings, **size}
        names = ("patch_size", "merge_size", "temporal_patch_size", "shortest_edge", "longest_edge")
        return cls(**{name: int(wanted[name]) for name in names if wanted.get(name) is not None})

    @property
    def token_side(self) -> int:
        """Pixels along one side of a token."""
        return self.patch_size * self.merge_size

    @property
    def most_tokens(self) -> int:
        """What the checkpoint's own processor allows a picture."""
        return self.longest_edge // (self.token_side**2 * self.temporal_patch_size)

    def size(self, width: int, height: int, max_tokens: int | None = None) -> tuple[int, int]:
        """(width, height) at which the model sees a picture of this size; raises AspectTooLong."""
        longest = self.longest_edge
        if max_tokens is not None:
            longest = min(longest, max_tokens * self.token_side**2 * self.temporal_patch_size)
        return self._resized(width, height, longest)

    def whole_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a picture that no limit scales down; raises AspectTooLong."""
        return self._resized(width, height, math.inf)

    def tokens(self, width: int, height: int) -> int:
        """Placeholder tokens of a picture that is seen at this size, a multiple of `token_side`."""
        return (width // self.token_side) * (height // self.token_side)

    def _resized(self, width: int, height: int, longest: float) -> tuple[int, int]:
        seen_height, seen_width = smart_resize(
            height, width, self.token_side, self.temporal_patch_size, self.shortest_edge, longest
        )
        return seen_width, seen_height


class Glm4v:
    """The family's rules for one checkpoint, all from its own files."""

    max_pictures = None

    def __init__(
        self, folder: Path, config: dict[str, Any], model: ModelSettings, settings: PreprocessSettings
    ) -> None:
        allowed = config.get("text_config", config).get("max_position_embeddings", model.context_tokens)
        self._context = Context(min(model.context_tokens, allowed))
        self._settings = settings
        self._grid = Glm4vGrid.of_checkpoint(folder)
        self._image_token = int(config["image_token_id"])
        self._chat = ChatTokenizer(folder, self._image_token)
        self.abilities = in_order({"multiple_images", *self._chat.abilities})

    def context(self, pictures: int) -> Context:
        return self._context

    def seen_size(self, width: int, height: int, detail: Detail, name: Name) -> tuple[int, int]:
        """Sides are rounded to whole tokens; then, by `detail`:

        - `high` and `auto`: scaled down to what the service (`preprocess.max_image_tokens`) and the
          checkpoint allow;
        - `low`: scaled down to `preprocess.low_detail_tokens`;
        - `original`: never scaled down. What would have to be is refused, with the tokens it would cost.
        """
        most = self._settings.max_image_tokens
        if detail == "low":
            most = min(most, self._settings.low_detail_tokens)
        try:
            size = self._grid.size(width, height, most)
            whole = self._grid.whole_size(width, height) if detail == "original" else size
        except AspectTooLong as error:
            raise name.rejected(
                f"is {width} x {height}: one side is more than {MAX_ASPECT} times the other, which is the limit"
            ) from error
        if size != whole:
            raise name.rejected(
                f"takes {self._grid.tokens(*whole)} tokens at its original size, {width} x {height};"
                f" the limit is {min(most, self._grid.most_tokens)}"
            )
        return size

    def tokens(self, width: int, height: int) -> int:
        return self._grid.tokens(width, height)

    def read(self, request: ChatRequest, counts: Sequence[int], limit: int) -> Reading:
        if request.text is not None:
            return Reading(self._chat.encode_text(request.text, limit), Thinking(enabled=False))
        thinking = resolve(request.thinking, self._chat.thinking, asks_not_to_think(request.messages))
        token_ids = self._chat.encode(request.messages, limit, request.tools, thinking.enabled)
        return Reading(expand(token_ids, self._image_token, counts), thinking)


def smart_resize(
    height: int, width: int, factor: int, frames: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """(height, width) as multiples of `factor` within the budgets of frames x height x width."""
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise AspectTooLong(f"{width} x {height}")
    seen_height = round(height / factor) * factor
    seen_width = round(width / factor) * factor
    if frames * seen_height * seen_width > max_pixels:
        beta = math.sqrt((frames * height * width) / max_pixels)
        seen_height = max(factor, math.floor(height / beta / factor) * factor)
        seen_width = max(factor, math.floor(width / beta / factor) * factor)
    elif frames * seen_height * seen_width < min_pixels:
        beta = math.sqrt(min_pixels / (frames * height * width))
        seen_height = math.ceil(height * beta / factor) * factor
        seen_width = math.ceil(width * beta / factor) * factor
    return seen_height, seen_width


def expand(token_ids: NDArray[np.int32], image_token: int, counts: Sequence[int]) -> NDArray[np.int32]:
    """Repeat the n-th image placeholder `counts[n]` times, one for each token of its picture.

    The template writes the marks around it: `<|begin_of_image|><|image|><|end_of_image|>`.
    """
    repeats = np.ones(len(token_ids), dtype=np.int64)
    repeats[token_ids == image_token] = counts
    return np.repeat(token_ids, repeats)
