"""The size to which a model family resizes a picture, as data that a decoder process gets with the file."""

from dataclasses import astuple, dataclass, field
from typing import Any

from serve_app.preprocess.glm4v_grid import Glm4vGrid


@dataclass(frozen=True, slots=True)
class SizeRule:
    """One square for all pictures, or a grid with a maximum number of tokens."""

    square: int = 0  # its side in pixels; 0: the grid
    grid: Glm4vGrid = field(default_factory=Glm4vGrid)
    max_tokens: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to which a picture of this size is resized; raises AspectRatioTooLarge."""
        return (self.square, self.square) if self.square else self.grid.size(width, height, self.max_tokens)

    def as_json(self) -> list[Any]:
        return list(astuple(self))

    @classmethod
    def of_json(cls, values: list[Any]) -> "SizeRule":
        square, grid, max_tokens = values
        return cls(square, Glm4vGrid(*grid), max_tokens)
