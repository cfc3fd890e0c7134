"""The model over pages: one forward pass for the new tokens of many sequences and pieces of prompts.

What a step needs goes to the device in one copy, and the newest token of every row stays there, so a step
can be launched before the host has read the tokens of the previous one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Prompt
from serve_app.engine.memory import is_out_of_memory
from serve_app.engine.model import trunk
from serve_app.engine.model.batch import Batch, HostBatch, Ints, Rows, unpack
from serve_app.engine.model.chunk_graphs import MOST_TOKENS, PIECES, SHORT_TOKENS, TOKEN_MULTIPLE, ChunkGraphs, padded
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.graphs import DecodeGraphs, row_buckets
from serve_app.engine.model.kernels import available
from serve_app.engine.model.pages import PAGE_TOKENS, pages_for, prompt_keys
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.trunk import PagedCache, Trunk
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence

log = logging.getLogger("glm.engine")

_FREE_BYTES = 2**30  # that must be free on the device after the warm-up; else torch's cached blocks are released
# Time of a step with up to 128 tokens of pieces, as a multiple of a step with rows only. On an H200 a captured step
# takes 6.35 ms, one with rows only 5.1 to 6.0; launched kernel by kernel, they take 9.5 and 5.8 to 7.0 ms.
_COST_OF_PIECES, _COST_OF_LAUNCHED_PIECES = 1.25, 1.6
_TOKEN_ON_DEVICE = -1  # marks a row whose input token was sampled last and is only on the device


class PagedRunner(Runner):
    """Computes the logits of sequences and chunks over the pages of the KV cache."""

    mixes_prefill_and_decode = True

    def __init__(self, model: ModelAdapter, layers: Trunk, slots: int, pages: int, context_tokens: int) -> None:
        super().__init__(model, context_tokens)
        self._slots = slots
        self._pages = pages
        # One row more than slots, for unused rows of a graph; its pages are page 0.
        table = torch.zeros(slots + 1, pages_for(context_tokens), dtype=torch.int32, device=model.device)
        self._cache = PagedCache(model.cache_shape, pages, table)
        self._trunk = layers
        self._newest = torch.zeros(slots + 1, dtype=torch.int64, device=model.device)
        self._idle_row = [slots, 1, 0, 0]  # as in `forward`
        self._graphs: DecodeGraphs | None = None
        self._chunk_graphs: ChunkGraphs | None = None

    @torch.inference_mode()
    def compile_kernels(self) -> None:
        """On a GPU, compile all kernels in threads; if that fails, each is compiled at its first launch."""
        if self.device.type != "cuda":
            return
        from serve_app.engine.model.kernels.launch import compile_ahead  # imported late, with Triton

        try:
            compile_ahead(self.run_all_kernels, min(16, len(os.sched_getaffinity(0))))
        except Exception as error:
            log.warning("Kernels are compiled one by one, because compiling them ahead of time failed: %s", error)

    @torch.inference_mode()
    def run_all_kernels(self) -> None:
        """Run every kernel once: a small picture, then one layer over prompts of some lengths and all row buckets."""
        for picture in self.model.probe().pictures:
            self.encode(picture)
        layer = self._trunk.first_layer()
        for rows in row_buckets(self._slots):
            idle = np.repeat(np.array(self._idle_row, dtype=np.int64)[:, None], rows, axis=1)
            self._decode(self._upload(idle), layer)
        # A kernel may have a form for few tokens or for many. The longest prompt comes last: it needs most memory.
        for tokens in (*SHORT_TOKENS, 2 * MOST_TOKENS):
            self._run_prompt(layer, tokens)

    @torch.inference_mode()
    def capture_graphs(self) -> None:
        """On a GPU, record the decode step once for each number of rows, and the layers for steps with chunks."""
        if self.device.type != "cuda":
            return
        pool = torch.cuda.graph_pool_handle()  # of all graphs, since only one runs at a time; the largest come first
        if self._trunk.captures_chunks(self._cache):
            hidden = self.model.embed(torch.zeros(1, 1, dtype=torch.int64, device=self.device))[0]
            axes, most = self.model.position_axes, (self._pages - 1) * PAGE_TOKENS
            self._chunk_graphs = ChunkGraphs(self._layers, axes, self._slots, most, hidden, self._slots, pool)
        rows, idle = row_buckets(self._slots), self._idle_row
        self._graphs = DecodeGraphs(
            lambda steps, _: self._decode(steps, self._trunk), rows, [0], idle, self.device, pool
        )

    def cache_bytes(self, sequence: Sequence) -> int:
        """The size of its pages; those that it shares count too."""
        return len(sequence.pages) * PAGE_TOKENS * self.model.cache_shape.bytes_per_token

    @torch.inference_mode()
    def warm_up(self, step_tokens: int) -> None:
        """Compute pictures and steps of all sizes up to `step_tokens`, largest first, before the first request.

        At the first use of a size, cuBLAS chooses and loads kernels and memory is allocated: up to 26 ms on an H200.
        Products of all layers have the same shapes, so one layer is enough.
        """
        if self.device.type != "cuda":
            return
        for picture in self.model.sample_pictures(self.context_tokens):
            with _ignore_out_of_memory():
                for _ in self.encode_slices([picture]):
                    pass
        with _ignore_out_of_memory():
            self.model.warm_up_tower()
        torch.cuda.empty_cache()  # cached blocks of pictures do not have the sizes that chunks need
        layer = self._trunk.first_layer()
        most = min(step_tokens + self._slots, (self._pages - 1) * PAGE_TOKENS) // TOKEN_MULTIPLE * TOKEN_MULTIPLE
        for tokens in range(most, 0, -TOKEN_MULTIPLE):
            with _ignore_out_of_memory():
                self._run_prompt(layer, tokens)
        hidden = self.model.embed(torch.zeros(1, self._slots + PIECES, dtype=torch.int64, device=self.device))[0]
        for samples in range(len(hidden), 0, -1):
            self.model.head(hidden[:samples])
        torch.cuda.synchronize(self.device)
        if torch.cuda.mem_get_info(self.device)[0] < _FREE_BYTES:  # cuBLAS allocates more in the loop's thread
            torch.cuda.empty_cache()

    def page_keys(self, prompt: Prompt) -> list[bytes]:
        """The keys of the pages that the prompt fills."""
        return prompt_keys(prompt, self.model.image_mask(prompt))

    @torch.inference_mode()
    def prepare(self, sequence: Sequence) -> None:
        """List the pages of a newly admitted sequence in its row of the table."""
        pages = np.zeros(self._cache.table.shape[1], dtype=np.int32)
        pages[: len(sequence.pages)] = sequence.pages
        self._cache.table[sequence.slot].copy_(self._upload(pages), non_blocking=True)
        sequence.need_pictures(_pictures_after(sequence, self.model.image_mask(sequence.prompt)))

    @torch.inference_mode()
    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Keep the sampled tokens (rows,) of slots (rows,) for the next step."""
        self._newest.index_copy_(0, slots, token_ids)

    @torch.inference_mode()
    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        """Clear the pages."""
        index = self._upload(np.array(pages, dtype=np.int64))
        for block in (*self._cache.keys, *self._cache.values):
            block.view(self._pages, -1).index_fill_(0, index, 0)

    @torch.inference_mode()
    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        """Logits (samples, vocab) after the newest token of `rows`, then the last `logits` tokens of each chunk."""
        steps = np.empty((4, len(rows)), dtype=np.int64)  # slot, tokens to look at, position, token
        for column, one in enumerate(rows):
            token = _TOKEN_ON_DEVICE if one.in_flight else one.generated[-1]
            steps[:, column] = one.slot, one.cached + 1, one.cached + one.position_delta, token
        if not chunks and self._graphs is not None:
            return self._graphs.replay(steps, 0)[: len(rows)]
        return self._mixed(rows, steps, chunks)

    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        """Drafts are pieces: a few save time where a step has pieces anyway.

        Others do if a step's tokens grow as its time does. A captured step has room for 15 pieces, also of prompts.
        """
        drafted = sum(len(draft.drafted) - 1 for draft in drafts)
        cost = _COST_OF_LAUNCHED_PIECES if self._chunk_graphs is None else _COST_OF_PIECES
        return (with_prompts and len(drafts) <= PIECES // 2) or rows + drafted >= cost * rows

    def _mixed(self, rows: list[Sequence], steps: Ints, chunks: list[Chunk]) -> torch.Tensor:
        batch = self._host_batch(rows, steps, chunks)
        starts = len(rows) + np.cumsum([0, *batch.piece_tokens])
        ends = zip(starts[1:], chunks, strict=True)
        logits_at = [*range(len(rows)), *(at for end, c in ends for at in range(end - c.logits, end))]
        images = [self._images(chunk, first) for chunk, first in zip(chunks, starts, strict=False)]
        captured = None if self._chunk_graphs is None else self._chunk_graphs.fitting(batch.size)
        size = captured or (padded(batch.size) if chunks else batch.size)
        padding = size.tokens - batch.size.tokens
        parts = [
            batch.pack(size, self._slots),
            np.concatenate([steps[3], *(c.token_ids for c in chunks), np.zeros(padding, dtype=np.int64)]),
            np.concatenate([np.empty(0, dtype=np.int64), *(at for at, _ in images)]),
            np.array(logits_at, dtype=np.int64),
        ]
        lengths = [len(part) for part in parts]
        array, tokens, image_at, wanted = self._upload(np.concatenate(parts)).split(lengths)
        sizes = list(zip(batch.piece_tokens.tolist(), batch.piece_lengths.tolist(), strict=True))
        device_batch = unpack(array, size, sizes + [(padding, padding)] * (size.pieces > len(sizes)))
        if device_batch.rows is not None:
            of_rows = tokens[: len(rows)]
            newest = self._newest[device_batch.rows.slots[: len(rows)]]
            of_rows.copy_(torch.where(of_rows == _TOKEN_ON_DEVICE, newest, of_rows))
        embeddings = self.model.embed(tokens[None])[0]
        if len(image_at):
            features = torch.cat([features for _, features in images if features is not None])
            embeddings.index_copy_(0, image_at, features.to(embeddings.dtype))
        if captured and self._chunk_graphs is not None:
            hidden = self._chunk_graphs.replay(captured, array, embeddings)
        else:
            hidden = self._trunk.forward(embeddings, device_batch, self._cache)
        return self.model.head(hidden.index_select(0, wanted))

    def _host_batch(self, rows: list[Sequence], steps: Ints, chunks: list[Chunk]) -> HostBatch:
        """Rows, of which steps (4, rows) are as in `forward`, and chunks, as one batch."""
        slots, lengths, positions, _ = steps
        of_rows = np.broadcast_to(positions, (self.model.position_axes, len(rows)))
        row_places = [_place(one.pages, one.cached) for one in rows]
        return HostBatch(
            positions=np.concatenate([of_rows, *(c.positions for c in chunks)], axis=1),
            places=np.concatenate([np.array(row_places, dtype=np.int64), *(_places(chunk) for chunk in chunks)]),
            row_slots=slots,
            row_lengths=lengths,
            piece_slots=np.array([chunk.sequence.slot for chunk in chunks], dtype=np.int64),
            piece_tokens=np.array([chunk.stop - chunk.start for chunk in chunks], dtype=np.int64),
            piece_lengths=np.array([chunk.stop for chunk in chunks], dtype=np.int64),
        )

    def probe_hidden(self, prompt: Prompt, features: torch.Tensor) -> torch.Tensor:
        positions, _ = self.model.positions(prompt)
        embeddings = self.model.embed(self._upload(prompt.token_ids[None].astype(np.int64)))[0]
        embeddings[self._upload(self.model.image_mask(prompt))] = features.to(embeddings.dtype)
        return self._in_first_pages(self._trunk, embeddings, self._upload(positions))

    def _run_prompt(self, layers: Trunk, tokens: int) -> None:
        """Run layers over a prompt of so many tokens, while no sequence has pages."""
        embeddings = self.model.embed(torch.zeros(1, tokens, dtype=torch.int64, device=self.device))[0]
        positions = torch.zeros(self.model.position_axes, tokens, dtype=torch.int64, device=self.device)
        self._in_first_pages(layers, embeddings, positions)

    def _in_first_pages(self, layers: Trunk, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Hidden states (tokens, hidden) of prompts in the first pages, while no sequence has any.

        One prompt, or as many as are needed for more tokens than a sequence may have; all are in the same pages.
        """
        tokens, row = len(embeddings), self._cache.table[self._slots]
        most = min(len(row), self._pages - 1) * PAGE_TOKENS
        sizes = [min(most, tokens - start) for start in range(0, tokens, most)]
        none = np.empty(0, dtype=np.int64)
        batch = HostBatch(
            positions=np.zeros((len(positions), tokens), dtype=np.int64),
            places=np.arange(tokens) % most + PAGE_TOKENS,
            row_slots=none,
            row_lengths=none,
            piece_slots=np.full(len(sizes), self._slots),
            piece_tokens=np.array(sizes),
            piece_lengths=np.array(sizes),
        )
        array = self._upload(batch.pack(batch.size, self._slots))
        device_batch = unpack(array, batch.size, [(size, size) for size in sizes])
        row[: most // PAGE_TOKENS].copy_(torch.arange(1, most // PAGE_TOKENS + 1, device=self.device))
        try:
            return layers.forward(embeddings, replace(device_batch, positions=positions), self._cache)
        finally:
            row.zero_()

    def _layers(self, embeddings: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self._trunk.forward(embeddings, batch, self._cache)

    def _images(self, chunk: Chunk, first: int) -> tuple[NDArray[np.int64], torch.Tensor | None]:
        """Where in the step the image tokens of a chunk stand whose first token is at `first`, and their features."""
        one = chunk.sequence
        if one.features is None:
            return np.empty(0, dtype=np.int64), None
        places = self.model.image_mask(one.prompt)
        before, here = int(places[: chunk.start].sum()), np.flatnonzero(places[chunk.start : chunk.stop])
        before -= one.prompt.image_tokens - sum(picture.tokens for picture in one.needed)
        return first + here, one.features[before : before + len(here)]

    def _decode(self, steps: torch.Tensor, layers: Trunk) -> torch.Tensor:
        """Logits (rows, vocab) after one token of each row, steps (4, rows) as in `forward`."""
        tokens, places = self._of_rows(steps)
        positions = steps[2].expand(self.model.position_axes, -1)
        batch = Batch(positions, places, Rows(steps[0], steps[1]), None)
        return self.model.head(layers.forward(self.model.embed(tokens[None])[0], batch, self._cache))

    def _of_rows(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row's token, and where its keys and values go."""
        slots, lengths, _, token_ids = steps
        at = lengths - 1
        page = self._cache.table[slots, at // PAGE_TOKENS].long()
        tokens = torch.where(token_ids == _TOKEN_ON_DEVICE, self._newest[slots], token_ids)
        return tokens, page * PAGE_TOKENS + at % PAGE_TOKENS

    def _upload(self, values: NDArray[Any]) -> torch.Tensor:
        on_host = torch.from_numpy(values)
        if self.device.type != "cuda":
            return on_host
        return on_host.pin_memory().to(self.device, non_blocking=True)


@contextmanager
def _ignore_out_of_memory() -> Generator[None, None, None]:
    """Ignores out-of-memory errors of the warm-up: only requests of that size will fail."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        error.__traceback__ = None
        torch.cuda.empty_cache()


def _place(pages: list[int], index: int) -> int:
    """Where the keys and values of a token go; beyond the pages of its sequence, which has ended then, to page 0."""
    page = index // PAGE_TOKENS
    return (pages[page] if page < len(pages) else 0) * PAGE_TOKENS + index % PAGE_TOKENS


def _pictures_after(sequence: Sequence, image_mask: NDArray[np.bool_]) -> int:
    """The number of pictures with a token that the pages of a newly admitted sequence do not hold."""
    held = int(image_mask[: sequence.prefilled].sum())  # image tokens
    ends = np.cumsum([picture.tokens for picture in sequence.prompt.pictures])
    return int((ends > held).sum())


def _places(chunk: Chunk) -> Ints:
    """Where the keys and values of a chunk's tokens go in the cache."""
    first = chunk.start // PAGE_TOKENS
    pages = np.array(chunk.sequence.pages[first : pages_for(chunk.stop)], dtype=np.int64) * PAGE_TOKENS
    places = (pages[:, None] + np.arange(PAGE_TOKENS)).ravel()
    return places[chunk.start - first * PAGE_TOKENS : chunk.stop - first * PAGE_TOKENS]


def supports(model: ModelAdapter) -> bool:
    """Whether this model runs over pages: its layers are of a known kind and its device runs the kernels."""
    return available(model.device) and trunk.supports(model.text_layers)
