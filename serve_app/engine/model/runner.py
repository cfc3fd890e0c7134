"""The base class of the runners, which run the forward passes of a model: `SlotRunner`, `PagedRunner`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Picture, Prompt
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence
from serve_app.errors import InvalidRequest


class Runner(ABC):
    """A loaded model with a cache; implements `ModelBackend`, the interface that the engine calls."""

    mixes_prefill_and_decode: bool

    def __init__(self, model: ModelAdapter, context_tokens: int) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.vocab_size, self.stop_ids, self.device = model.vocab_size, model.stop_ids, model.device

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Positions (axes, tokens) of a prompt and the delta of what follows it."""
        return self.model.positions(prompt)

    def page_keys(self, prompt: Prompt) -> list[bytes]:
        """Keys of the pages that the prompt fills; none where pages are not shared."""
        return []

    def prepare(self, sequence: Sequence) -> None:
        """Prepare for a newly admitted sequence, and say which pictures' features it needs."""
        sequence.need_pictures(len(sequence.prompt.pictures))

    def device_bytes(self, sequence: Sequence, piece_tokens: int) -> int:
        """Device memory of a sequence at its peak, when a piece of its prompt is computed; 0 on a CPU.

        Its part of the KV cache, its image features, and an estimate of the activations of one layer for the piece:
        four rows of the hidden size and three of the intermediate size for each token.
        """
        if self.device.type == "cpu":
            return 0
        text: Any = self.model.text_layers.config
        itemsize = self.model.dtype.itemsize
        features: int = sequence.prompt.image_tokens * text.hidden_size * itemsize
        activations: int = piece_tokens * (4 * text.hidden_size + 3 * text.intermediate_size) * itemsize
        return self.cache_bytes(sequence) + features + activations

    @abstractmethod
    def cache_bytes(self, sequence: Sequence) -> int:
        """Size of the part of the KV cache that is reserved for a sequence."""

    @torch.inference_mode()
    def encode(self, picture: Picture) -> torch.Tensor:
        """Image features (tokens, hidden) of a picture, computed as for a request."""
        slices = self.encode_slices([picture])
        while True:
            try:
                next(slices)
            except StopIteration as ended:
                features: list[torch.Tensor] = ended.value
                return features[0]

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        """Image features (tokens, hidden) of pictures; yields after each slice of work, its share in image tokens."""
        return self.model.encode_slices(pictures)

    def compile_kernels(self) -> None:  # noqa: B027  # the library's modules need none
        """Compile the kernels of all later steps at once, where there are any."""

    @abstractmethod
    def capture_graphs(self) -> None:
        """On a GPU, record the decode step, so that it is launched as one from then on."""

    def warm_up(self, step_tokens: int) -> None:  # noqa: B027  # the library's modules choose no kernels by size
        """Compute what no request should be the first to need, steps of up to so many prompt tokens included."""

    @abstractmethod
    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        """Logits (samples, vocab) after the newest token of `rows`, then the last `logits` tokens of each chunk."""

    @abstractmethod
    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        """Whether a step of so many sequences is worth its time with these drafts; it may have prompt chunks too."""

    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:  # noqa: B027
        """Remember sampled tokens (rows,) of slots (rows,), where a step may begin before the host has read them."""

    @abstractmethod
    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        """Clear the cache of a sequence that ends: its slot, or these pages, which no other sequence uses."""

    @abstractmethod
    def probe_hidden(self, prompt: Prompt, features: torch.Tensor) -> torch.Tensor:
        """Hidden states (tokens, hidden) of a prompt, for a runner without sequences only."""

    @torch.inference_mode()
    def check_numbers(self) -> None:
        """Run the adapter's probe; raises `InvalidRequest` if a stage gives infinity or NaN.

        Call it before the first request. float16 ends at 65504, and a model trained in bfloat16 may go beyond.
        """
        prompt = self.model.probe()
        features = torch.cat([self.encode(picture) for picture in prompt.pictures])
        hidden = self.probe_hidden(prompt, features)
        stages = {"vision tower": features, "text layers": hidden, "head": self.model.head(hidden[-1:])}
        broken = next((stage for stage, values in stages.items() if not bool(values.isfinite().all())), None)
        if broken is not None and self.model.dtype == torch.float16:
            raise InvalidRequest(
                f"The model's {broken} needs larger numbers than float16 has. Run it on a GPU with bfloat16 (compute "
                "capability 8.0 or newer) or set model.dtype to float32.",
                param="model.dtype",
            )
        if broken is not None:
            raise InvalidRequest(
                f"The model's {broken} gives values that are not numbers. The weights may be damaged:"
                " download the checkpoint again.",
                param="model.path",
            )
