"""Training batches, drawn endlessly by worker processes: pictures of one size, rows of ids.

A batch has scenes of one job and one canvas size, so that the vision tower gets a dense tensor, and conversations of
one sort; its loss is a mean, so the share of a sort in the loss is how often it is drawn. The strength of the pictures'
degradation is a shared number that the training loop raises.
"""

from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from training import fonts
from training.abilities import point, think, use_tools
from training.boards import draw_board
from training.conversations import Conversation, Writer, converse, positions
from training.degradation import degrade
from training.documents import draw_document
from training.labels import draw_label
from training.panels import draw_panel
from training.scenes import Scene

JOBS = ("labels", "boards", "documents")
Batch = dict[str, Any]
# Seeds of training, validation and the fixed evaluation set have disjoint ranges.
TRAINING_SEEDS = (0, 1 << 40)
VALIDATION_SEEDS = (1 << 41, 1 << 42)
EVALUATION_SEEDS = (1 << 43, 1 << 44)
_OTHER_SIZES = {  # sizes of pictures that the service scales to its grid: multiples of 28 pixels, (width, height)
    "labels": ((14, 10), (15, 11), (18, 13), (20, 15), (21, 16)),
    "boards": ((12, 12), (13, 13), (15, 15), (16, 16), (18, 18)),
    "documents": ((14, 18), (15, 19), (15, 18), (16, 21), (17, 21)),
}
_SPOTS_A_PATCH = 2
# Batches of each sort, of a hundred; half of the questions of the last two sorts are plain.
SORTS = ((converse, 61), (think, 7), (point, 20), (use_tools, 12))


def draw(job: str, rng: Random) -> Scene:
    """A scene as drawn, without degradation."""
    if job == "labels":
        return draw_label(rng) if rng.random() < 0.58 else draw_panel(rng)
    return draw_board(rng) if job == "boards" else draw_document(rng)


def degraded_scene(job: str, seed: int, strength: float) -> Scene:
    """The degraded scene of a seed."""
    rng = Random(seed)
    scene = draw(job, rng)
    degrade(scene, rng, strength)
    return scene


def resize(scene: Scene, columns: int, rows: int) -> None:
    """Scales the picture as the preprocessor would, and all recorded positions."""
    width, height = columns * 28, rows * 28
    across, down = width / scene.image.width, height / scene.image.height
    scene.image = scene.image.resize((width, height), Image.Resampling.BICUBIC)
    scene.move((across, 0, 0), (0, down, 0))


class Drawings(IterableDataset[Batch]):
    """An endless stream of batches of one job."""

    def __init__(
        self, job: str, rows: int, tokenizer: PreTrainedTokenizerFast, seed: int, strength: "Synchronized[float]",
        font_folder: Path | None,
    ) -> None:  # fmt: skip
        self.job, self.rows, self.tokenizer, self.seed = job, rows, tokenizer, seed
        self.strength, self.font_folder = strength, font_folder

    def __iter__(self) -> Iterator[Batch]:
        if self.font_folder:
            fonts.search_first(self.font_folder)
        worker = get_worker_info()
        rng = Random(f"{self.job} {self.seed} {worker.id if worker else 0}")
        writer = Writer(self.tokenizer)
        while True:
            yield self._batch(rng, writer)

    def _batch(self, rng: Random, writer: Writer) -> Batch:
        strength = self.strength.value
        other = rng.choice(_OTHER_SIZES[self.job]) if rng.random() < 0.2 else None

        def scene() -> Scene:
            drawn = degraded_scene(self.job, rng.randrange(*TRAINING_SEEDS), strength)
            if other:
                resize(drawn, *other)
            return drawn

        write_conversation = rng.choices([sort for sort, _ in SORTS], [share for _, share in SORTS])[0]
        scenes, conversations = [], []
        for row in range(self.rows):
            shown = [scene() for _ in range(_pictures_in(row, self.rows, other is not None))]
            scenes += shown
            conversations.append(write_conversation(writer, shown, rng, rng.randrange(4, 7)))
        # the name of its loss in the log: the job for plain conversations, the ability for others
        return collate(scenes, conversations, writer) | {
            "sort": self.job if write_conversation is converse else write_conversation.__name__
        }


def _pictures_in(row: int, rows: int, rescaled: bool) -> int:
    """Pictures of a row; the total is the same for all batches: as many rows have two as have none."""
    few = 0 if rescaled else rows // 20
    return 2 if row < few else 0 if row < 2 * few else 1


def collate(scenes: list[Scene], conversations: list[Conversation], writer: Writer) -> Batch:
    """Pictures of one size and the conversations that show them, in their order, as tensors."""
    longest = -(-max(len(row.ids) for row in conversations) // 32) * 32
    ids = np.full((len(conversations), longest), writer.user_token, np.int64)
    places = np.zeros((3, len(conversations), longest), np.int64)
    where: list[int] = []  # flat index of the hidden state that predicts a trained id
    targets: list[int] = []
    weights: list[float] = []
    answers: list[tuple[str, int, int]] = []  # kind, first and last+1 of the answer's targets
    for row, conversation in enumerate(conversations):
        length = len(conversation.ids)
        ids[row, :length] = conversation.ids
        places[:, row, :length] = positions(conversation)
        for kind, first, stop in conversation.answers:
            answers.append((kind, len(targets), len(targets) + stop - first))
            where += range(row * longest + first - 1, row * longest + stop - 1)
            targets += conversation.ids[first:stop]
            weights += conversation.weights[first:stop]
    batch: Batch = {
        "ids": torch.from_numpy(ids), "positions": torch.from_numpy(places), "where": torch.tensor(where),
        "targets": torch.tensor(targets), "weights": torch.tensor(weights), "answers": answers, "images": None,
        "spots": None,
    }  # fmt: skip
    if scenes:
        batch["images"] = torch.from_numpy(np.stack([np.asarray(scene.image) for scene in scenes]))
        batch["spots"] = torch.stack([_spots(scene, writer) for scene in scenes])
    return batch


def _spots(scene: Scene, writer: Writer) -> Tensor:
    """Ids of the characters whose centre is in each patch, (patches, 2) in merge-block order; -1: none."""
    rows, columns = scene.image.height // 14, scene.image.width // 14
    grid = np.full((rows, columns, _SPOTS_A_PATCH), -1, np.int64)
    for glyph in scene.glyphs:
        row, column = int(glyph.y // 14), int(glyph.x // 14)
        if 0 <= row < rows and 0 <= column < columns:
            cell = grid[row, column]
            free = 0 if cell[0] < 0 else 1
            cell[free] = _id_of(writer, glyph.character)
    blocks = grid.reshape(rows // 2, 2, columns // 2, 2, _SPOTS_A_PATCH).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(blocks.reshape(-1, _SPOTS_A_PATCH).copy())


_ids: dict[str, int] = {}


def _id_of(writer: Writer, character: str) -> int:
    if character not in _ids:
        _ids[character] = writer.encode(character)[0]
    return _ids[character]
