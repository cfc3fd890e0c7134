"""GLM-4.1V and GLM-4.6V: picture sizes by `smart_resize`, picture tokens.

Sizes equal those of transformers' image_processing_pil_glm4v.py (glm46v has the same).
Pixel limits count frames: a still picture is repeated to fill one temporal patch, so it counts twice.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from serve_app.checkpoint import image_processor_settings
from serve_app.errors import InvalidRequest

MAX_ASPECT_RATIO = 200  # as in the processor of transformers


class AspectRatioTooLarge(ValueError):
    """One side is more than 200 times the other."""


@dataclass(frozen=True, slots=True)
class Glm4vGrid:
    """How pictures are divided into patches, from the checkpoint's preprocessor_config.json.

    Defaults are those of the processor class in transformers, for fields that a checkpoint lacks.
    """

    patch_size: int = 14
    merge_size: int = 2  # patches along each side of a token
    temporal_patch_size: int = 2
    shortest_edge: int = 112 * 112  # minimum of frames x height x width
    longest_edge: int = 28 * 28 * 15000  # maximum of frames x height x width

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "Glm4vGrid":
        """Read the checkpoint's grid; raises InvalidRequest if it is of another family or unreadable."""
        settings = image_processor_settings(folder)
        size = settings.get("size", {})
        if size and not {"shortest_edge", "longest_edge"} <= size.keys():
            raise InvalidRequest(
                f"preprocessor_config.json in {folder} has no size.shortest_edge and size.longest_edge. Use the"
                " file that was published with the checkpoint.",
                param="model.path",
            )
        values = {**settings, **size}
        names = ("patch_size", "merge_size", "temporal_patch_size", "shortest_edge", "longest_edge")
        return cls(**{name: int(values[name]) for name in names if values.get(name) is not None})

    @property
    def token_side(self) -> int:
        """Pixels along one side of a token."""
        return self.patch_size * self.merge_size

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of a picture in the checkpoint's own processor."""
        return self.longest_edge // (self.token_side**2 * self.temporal_patch_size)

    def size(self, width: int, height: int, max_tokens: float | None = None) -> tuple[int, int]:
        """(width, height) to which a picture of this size is resized; raises AspectRatioTooLarge.

        It is scaled down to the checkpoint's limit and to `max_tokens`; infinity: to no limit at all.
        """
        longest: float = self.longest_edge
        if max_tokens is not None:
            budget = max_tokens * self.token_side**2 * self.temporal_patch_size
            longest = budget if math.isinf(budget) else min(longest, budget)
        resized = smart_resize(height, width, self.token_side, self.temporal_patch_size, self.shortest_edge, longest)
        return resized[::-1]

    def tokens(self, width: int, height: int) -> int:
        """Placeholder tokens of a picture of this size, whose sides are multiples of `token_side`."""
        return (width // self.token_side) * (height // self.token_side)


def smart_resize(
    height: int, width: int, factor: int, frames: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """(height, width) as multiples of `factor`, with frames x height x width within the limits.

    Raises AspectRatioTooLarge.
    """
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise AspectRatioTooLarge(f"{width} x {height}")
    new_height = round(height / factor) * factor
    new_width = round(width / factor) * factor
    if frames * new_height * new_width > max_pixels:
        beta = math.sqrt((frames * height * width) / max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif frames * new_height * new_width < min_pixels:
        beta = math.sqrt(min_pixels / (frames * height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width
