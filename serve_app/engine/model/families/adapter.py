"""Base class of the adapters: the interface between the engine and a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from serve_app.contracts import Picture, Prompt
from serve_app.engine.model.slots import CacheShape


class ModelAdapter(ABC):
    """A loaded model and the rules of its family.

    The token ids of a prompt contain placeholders for every picture, marked by `image_mask`. The features of
    `encode` replace them, in order.
    """

    model: Any  # the module with everything, `lm_head` too
    text_layers: Any  # the module of the text layers, `trunk` without its cache
    dtype: torch.dtype
    device: torch.device
    model_type: str  # of the checkpoint's configuration
    vocab_size: int
    max_context_tokens: int  # cache tokens of the longest sequence that the checkpoint supports
    stop_ids: frozenset[int]
    cache_shape: CacheShape
    position_axes: int

    @abstractmethod
    def encode(self, picture: Picture) -> torch.Tensor:
        """Image features (tokens, hidden) of a picture."""

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        """The features of several pictures; yields after each slice of work, so that others can run between.

        What it yields is the slice's share of the work, in image tokens. By default a slice is a picture.
        """
        features = []
        for picture in pictures:
            features.append(self.encode(picture))
            yield picture.tokens
        return features

    @abstractmethod
    def image_mask(self, prompt: Prompt) -> NDArray[np.bool_]:
        """Bool (tokens,): True for placeholders of image features.

        Raises `EngineFailed` if they do not match the pictures of the prompt.
        """

    @abstractmethod
    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Positions (axes, tokens), and the delta of generated tokens: position = index in the cache + delta.

        Raises `ContextTooLong` if the answer would exceed the positions of the model.
        """

    @abstractmethod
    def probe(self) -> Prompt:
        """A small prompt with a grey picture, answered once before the replica is ready."""

    @abstractmethod
    def sample_pictures(self, most_tokens: int) -> list[Picture]:
        """Grey pictures of the sizes that the tower computes, largest first, with at most so many tokens each."""

    def warm_up_tower(self) -> None:  # noqa: B027  # of most families `sample_pictures` has all sizes
        """On a GPU, let the tower's products choose their kernels for the sizes that pictures have."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Word embeddings (rows, tokens, hidden) of ids (rows, tokens)."""
        return self.text_layers.embed_tokens(token_ids)  # type: ignore[no-any-return]

    def trunk(
        self, embeddings: torch.Tensor, positions: torch.Tensor, cache: Cache, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Hidden states (rows, tokens, hidden); positions (axes, rows, tokens), mask as `slot_attention` has it."""
        at = positions if self.position_axes > 1 else positions[0]
        output = self.text_layers(
            inputs_embeds=embeddings, position_ids=at, past_key_values=cache, use_cache=True, slot_mask=mask
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocab) of hidden states (rows, hidden)."""
        return self.model.lm_head(hidden)  # type: ignore[no-any-return]
