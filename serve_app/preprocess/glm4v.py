"""The GLM-4.1V/4.6V family: the size a picture is seen at, and the tokens it costs.

Same arithmetic as `smart_resize` of transformers' image_processing_pil_glm4v.py (glm46v has the same).
Pixel budgets count frames: a still picture is repeated to fill one temporal patch, so it counts twice.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import InvalidRequest

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
        settings = _processor_settings(folder)
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

    def size(self, width: int, height: int, max_tokens: int | None = None) -> tuple[int, int]:
        """(width, height) at which the model sees a picture of this size; raises AspectTooLong."""
        longest = self.longest_edge
        if max_tokens is not None:
            longest = min(longest, max_tokens * self.token_side**2 * self.temporal_patch_size)
        seen_height, seen_width = smart_resize(
            height, width, self.token_side, self.temporal_patch_size, self.shortest_edge, longest
        )
        return seen_width, seen_height

    def tokens(self, width: int, height: int) -> int:
        """Placeholder tokens of a picture that is seen at this size, a multiple of `token_side`."""
        return (width // self.token_side) * (height // self.token_side)


def smart_resize(
    height: int, width: int, factor: int, frames: int, min_pixels: int, max_pixels: int
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


def expand(token_ids: NDArray[np.int32], image_token: int, counts: list[int]) -> NDArray[np.int32]:
    """Repeat the n-th image placeholder `counts[n]` times, one for each token of its picture.

    The template writes the marks around it: `<|begin_of_image|><|image|><|end_of_image|>`.
    """
    repeats = np.ones(len(token_ids), dtype=np.int64)
    repeats[token_ids == image_token] = counts
    return np.repeat(token_ids, repeats)


def _processor_settings(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            # newer checkpoints keep all processors in one file, each under its own key
            settings: dict[str, Any] = found.get("image_processor", found)
            return settings
    raise InvalidRequest(f"the model folder {folder} has no preprocessor_config.json", param="model.path")
