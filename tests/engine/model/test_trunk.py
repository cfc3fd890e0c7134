"""The trunk written out gives the library's numbers: prompts whole and in pieces, rows alone and together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, Glm4vForConditionalGeneration

from serve_app.engine.model.batch import BatchSize, HostBatch, unpack
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.model.trunk import PagedCache, Trunk
from serve_app.engine.model.weights import load_model
from serve_app.settings import ModelSettings
from tests.engine.model.original_glm4v_9b import write_folder

CPU = torch.device("cpu")
PAGES = 9  # of the longest sequence


@pytest.fixture(scope="module")
def glm4v(tiny_model: Path) -> Any:
    model = Glm4vForConditionalGeneration.from_pretrained(tiny_model).eval()
    return model.model.language_model


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_folder(tmp_path_factory.mktemp("small"))
    adapter: Any = load_model(folder, ModelSettings(path=str(folder), device="cpu"))
    return adapter.model.language_model


def reference(module: Any, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hidden states (tokens, hidden) by the library's own attention."""
    before = module.config._attn_implementation
    module.set_attn_implementation("sdpa")
    try:
        at = positions[:, None] if len(positions) > 1 else positions
        out = module(inputs_embeds=embeddings[None], position_ids=at, past_key_values=DynamicCache())
    finally:
        module.set_attn_implementation(before)
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


class Paged:
    """A trunk over a cache whose sequences have pages all over it."""

    def __init__(self, module: Any, axes: int, sequences: int) -> None:
        config = module.config
        head = module.layers[0].self_attn.head_dim
        shape = CacheShape(config.num_hidden_layers, config.num_key_value_heads, head, torch.float32)
        order = torch.randperm(sequences * PAGES) + 1
        idle = torch.zeros(1, PAGES, dtype=torch.int32)
        self.table = torch.cat((order.view(sequences, PAGES).int(), idle))
        self.cache = PagedCache(shape, sequences * PAGES + 1, self.table)
        self.trunk = Trunk(module, CPU)
        self.axes = axes

    def places(self, sequence: int, start: int, stop: int) -> torch.Tensor:
        at = torch.arange(start, stop)
        return self.table[sequence, at // PAGE_TOKENS].long() * PAGE_TOKENS + at % PAGE_TOKENS

    def step(
        self,
        inputs: Callable[[int, int, int], tuple[torch.Tensor, torch.Tensor]],
        rows: list[tuple[int, int]],
        pieces: list[tuple[int, int, int]],
        padding: tuple[int, int, int] | None,
    ) -> torch.Tensor:
        """One forward of rows (sequence, index of its token) and pieces (sequence, start, stop).

        Steps with pieces are padded by so many tokens, rows and pieces.
        """
        spans = [(s, at, at + 1) for s, at in rows] + pieces
        given = [inputs(*span) for span in spans]
        batch = HostBatch(
            positions=torch.cat([positions for _, positions in given], dim=1).numpy(),
            places=torch.cat([self.places(*span) for span in spans]).numpy(),
            row_slots=np.array([s for s, _ in rows], dtype=np.int64),
            row_lengths=np.array([at + 1 for _, at in rows], dtype=np.int64),
            piece_slots=np.array([s for s, _, _ in pieces], dtype=np.int64),
            piece_tokens=np.array([stop - start for _, start, stop in pieces], dtype=np.int64),
            piece_lengths=np.array([stop for _, _, stop in pieces], dtype=np.int64),
        )
        size = batch.size
        if padding is not None and pieces:
            size = BatchSize(self.axes, size.tokens + padding[0], size.rows + padding[1], size.pieces + padding[2])
        embeddings = torch.cat([embeddings for embeddings, _ in given])
        padded = torch.zeros(size.tokens, embeddings.shape[1])
        padded[: len(embeddings)] = embeddings
        array = torch.from_numpy(batch.pack(size, idle_slot=len(self.table) - 1))
        return self.trunk.forward(padded, unpack(array, size), self.cache)[: len(embeddings)]


@pytest.mark.parametrize("padding", [None, (100, 3, 2)])
@pytest.mark.parametrize(("family", "axes"), [("glm4v", 3), ("glm", 1)])
@torch.inference_mode()
def test_pieces_and_rows_of_mixed_steps_give_what_the_module_gives_for_the_whole_sequence(
    family: str, axes: int, padding: tuple[int, int, int] | None, request: pytest.FixtureRequest
) -> None:
    module = request.getfixturevalue(family)
    torch.manual_seed(5)
    lengths = [9, 131, 70]
    embeddings = [torch.randn(length, module.config.hidden_size) * 0.1 for length in lengths]
    positions = [torch.randint(0, 90, (axes, length)) for length in lengths]
    expected = [reference(module, e, p) for e, p in zip(embeddings, positions, strict=True)]
    paged = Paged(module, axes, len(lengths))

    def inputs(s: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return embeddings[s][start:stop], positions[s][:, start:stop]

    got: list[list[torch.Tensor]] = [[] for _ in lengths]
    for rows, pieces in (
        ([], [(0, 0, 7), (1, 0, 50)]),
        ([(0, 7)], [(1, 50, 128), (2, 0, 69)]),
        ([(2, 69), (0, 8)], [(1, 128, 130)]),
        ([(1, 130)], []),
    ):
        hidden = paged.step(inputs, rows, pieces, padding)
        sizes = [1] * len(rows) + [stop - start for _, start, stop in pieces]
        for (s, *_), part in zip([*rows, *pieces], hidden.split(sizes), strict=True):
            got[s].append(part)
    for one, whole in zip(got, expected, strict=True):
        assert torch.allclose(torch.cat(one), whole, atol=2e-4)


@torch.inference_mode()
def test_the_module_gives_the_same_after_its_weights_became_views_of_the_trunks(glm4v: Any) -> None:
    embeddings, positions = torch.randn(12, glm4v.config.hidden_size), torch.arange(12).expand(3, -1)
    before = reference(glm4v, embeddings, positions)
    Trunk(glm4v, CPU)
    attention = glm4v.layers[0].self_attn
    assert attention.k_proj.weight.data_ptr() > attention.q_proj.weight.data_ptr()
    assert attention.k_proj.weight.untyped_storage().data_ptr() == attention.q_proj.weight.untyped_storage().data_ptr()
    assert torch.equal(reference(glm4v, embeddings, positions), before)
