"""Adapter of GLM-4.1V-9B-Thinking and GLM-4.6V-Flash: the unmodified `Glm4vForConditionalGeneration`.

Adds to the library's modules: pixels to patches on the device, positions on three axes (the module's own
`rope_deltas` is shared between requests and not used), and separate calls of tower, trunk and head. Source of
the rules: transformers models/glm4v (`get_rope_index`, image processor), models/glm46v.
"""

from __future__ import annotations

from collections.abc import Generator, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.checkpoint import image_processor_settings
from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.model import tower
from serve_app.engine.model.attention import SLOT_ATTENTION
from serve_app.engine.model.compressed_tensors import CompressedTensors
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.pages import image_starts
from serve_app.engine.model.quantization import Quantization
from serve_app.engine.model.shards import checked_tensors, fill_weights, shard_files
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.errors import EngineFailed, InvalidRequest

_SAMPLE_SIDES = (78, 64, 56, 48, 40, 32, 24, 16, 12, 8, 4)  # in tokens


class Glm4vAdapter(ModelAdapter):
    """Adapter of the family; methods are documented in `ModelAdapter`."""

    position_axes = 3  # time, height, width

    def __init__(self, model: Any, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.model, self.text_layers = model, model.model.language_model
        self.dtype = dtype
        self.device = device
        text, vision = model.config.text_config, model.config.vision_config
        # Only the text trunk attends over slots; the tower keeps the library's own attention.
        model.set_attn_implementation({"text_config": SLOT_ATTENTION, "vision_config": "sdpa"})
        replace_convolution_by_matmul(model.model.visual.patch_embed.proj)
        replace_convolution_by_matmul(model.model.visual.downsample)
        self.model_type: str = model.config.model_type
        self.vocab_size: int = text.vocab_size
        self.max_context_tokens: int = text.max_position_embeddings
        self.stop_ids = _stop_ids(model)
        self.cache_shape = CacheShape(
            layers=text.num_hidden_layers,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            dtype=dtype,
        )
        self._image_token_id: int = model.config.image_token_id
        self._patch: int = vision.patch_size
        self._temporal: int = vision.temporal_patch_size
        self._merge: int = vision.spatial_merge_size
        processor = image_processor_settings(folder)
        self._mean = torch.tensor(processor["image_mean"], device=device)
        self._std = torch.tensor(processor["image_std"], device=device)
        visual = model.model.visual
        self._tower = tower.Tower(visual, self._mean, self._std) if tower.supports(visual) else None

    @classmethod
    def load(
        cls, folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device, quantization: Quantization
    ) -> Glm4vAdapter:
        """Read a folder of `transformers`' layout, raises `InvalidRequest` if it cannot be loaded."""
        compression = CompressedTensors.of(config)
        stored_quantized = config.get("quantization_config") is not None and compression is None
        if stored_quantized and quantization.kind != "none":
            raise InvalidRequest(
                "The checkpoint is quantized already. Set model.quantization to none.", param="model.quantization"
            )
        unquantized_modules = quantization.unquantized_modules("lm_head", "model.visual")
        stored = [tensor for file in shard_files(folder) for tensor in checked_tensors(file)]
        model = empty_network(folder)
        # On a CPU the library maps files whose weights need no conversion, which reads nothing and takes no memory.
        copied = device.type != "cpu" or any(tensor.dtype != dtype for tensor in stored)
        unquantized = quantization.kind == "none" and not stored_quantized
        ours = compression is not None or quantization.kind == "fp8"
        if ours or (unquantized and copied and _is_complete(model, {tensor.name for tensor in stored})):
            quantization.replace_linears(model, dtype, unquantized_modules)
            # Stored tensors that are not the model's are ignored, as the library does.
            fill_weights(model, folder, lambda name: name, None, dtype, device, compression)
        else:
            model = _read(folder, dtype, device, quantization.for_transformers(dtype, unquantized_modules))
        return cls(model.eval(), folder, dtype, device)

    @staticmethod
    def vocabulary(folder: Path, size: int) -> Vocabulary:
        """The bytes of the tokens of the folder's own tokenizer."""
        from transformers import AutoTokenizer

        return Vocabulary.of(AutoTokenizer.from_pretrained(folder, local_files_only=True), size)

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        if self._tower is None:
            return super().encode_slices(pictures)
        return self._tower.encode([self._pixels(picture) for picture in pictures])

    def _pixels(self, picture: Picture) -> torch.Tensor:
        """A picture's pixels on the device, copied without waiting for it."""
        pinned = torch.empty(picture.pixels.shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        pinned.numpy()[:] = picture.sent_pixels()
        return pinned.to(self.device, non_blocking=True)

    def encode(self, picture: Picture) -> torch.Tensor:
        height, width = picture.pixels.shape[:2]
        grid = torch.tensor([[1, height // self._patch, width // self._patch]], device=self.device)
        pixels = torch.tensor(picture.sent_pixels(), device=self.device)  # a copy: what came through Ray is read-only
        return self.model.model.get_image_features(self._patchify(pixels), grid, return_dict=True).pooler_output[0]  # type: ignore[no-any-return]

    def _patchify(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (height, width, 3) to normalised patches (patches, 3 * temporal * patch * patch).

        Patches are ordered as the processor does: the merge x merge patches of one token together.
        A still picture fills all frames of a temporal patch.
        """
        height, width, channels = pixels.shape
        patch, merge = self._patch, self._merge
        normal = ((pixels.float() / 255 - self._mean) / self._std).to(self.dtype)
        rows, columns = height // patch // merge, width // patch // merge
        blocks = normal.view(rows, merge, patch, columns, merge, patch, channels)
        blocks = blocks.permute(0, 3, 1, 4, 6, 2, 5)  # (rows, columns, merge, merge, channels, patch, patch)
        flat = blocks.reshape(rows * columns * merge * merge, channels, 1, patch * patch)
        return flat.expand(-1, -1, self._temporal, -1).reshape(flat.shape[0], -1)

    def image_mask(self, prompt: Prompt) -> NDArray[np.bool_]:
        return np.equal(prompt.token_ids, self._image_token_id)

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        """Text advances all axes by one. A picture starts at the next position and counts its rows and
        columns on two axes; the text continues after its longer side.
        """
        image_mask = self.image_mask(prompt)
        if int(image_mask.sum()) != prompt.image_tokens:
            raise EngineFailed(
                f"The prompt has {int(image_mask.sum())} image tokens, but its pictures have {prompt.image_tokens}."
            )
        positions = np.empty((3, len(image_mask)), dtype=np.int64)
        at, following = 0, 0  # token index, next position
        for start, picture in zip(image_starts(prompt, image_mask), prompt.pictures, strict=True):
            text = start - at
            positions[:, at:start] = np.arange(following, following + text)
            following += text
            rows, columns = (side // self._patch // self._merge for side in picture.pixels.shape[:2])
            stop = start + rows * columns
            positions[0, start:stop] = following
            positions[1, start:stop] = following + np.repeat(np.arange(rows), columns)
            positions[2, start:stop] = following + np.tile(np.arange(columns), rows)
            at, following = stop, following + max(rows, columns)
        tail = len(image_mask) - at
        positions[:, at:] = np.arange(following, following + tail)
        return positions, following + tail - len(image_mask)

    def probe(self) -> Prompt:
        picture = self._grey_picture(4)
        text = max(self.stop_ids, default=0)
        token_ids = np.array([text, *[self._image_token_id] * 16, text], dtype=np.int32)
        return Prompt("probe", token_ids, (picture,), Sampling(max_tokens=3, temperature=0.0), deadline_s=600.0)

    def sample_pictures(self, most_tokens: int) -> list[Picture]:
        return [self._grey_picture(side) for side in _SAMPLE_SIDES if side * side <= most_tokens]

    def warm_up_tower(self) -> None:
        if self._tower is not None:
            self._tower.warm_up()

    def _grey_picture(self, side: int) -> Picture:
        """A picture of side x side tokens."""
        pixels = side * self._patch * self._merge
        return Picture(np.full((pixels, pixels, 3), 128, dtype=np.uint8), "grey", side * side, (pixels, pixels))


def replace_convolution_by_matmul(convolution: torch.nn.Conv2d | torch.nn.Conv3d) -> None:
    """Replace a convolution whose kernel covers its complete input by the equal matrix product.

    The tower's patch embedding and downsampling are of this kind: (patches, channels, *kernel) to
    (patches, out, 1, ...). On a CPU they took 11 of 74 ms a picture as convolutions. Weights and names
    stay as they are.
    """

    def forward(patches: torch.Tensor) -> torch.Tensor:
        weight = convolution.weight
        product = torch.nn.functional.linear(patches.flatten(1), weight.flatten(1), convolution.bias)
        return product.view(*product.shape, *(1,) * (weight.ndim - 2))

    convolution.forward = forward  # type: ignore[method-assign, assignment]


def _read(folder: Path, dtype: torch.dtype, device: torch.device, quantization_config: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    # Not even None may be passed for a checkpoint that is quantized already: it would hide the stored config.
    quantizing = {} if quantization_config is None else {"quantization_config": quantization_config}
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            **quantizing,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{folder.name} could not be loaded: {error}.", param="model.path") from error
    for kind, what in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape for")):
        if keys := sorted(str(key) for key in report[kind]):
            raise InvalidRequest(
                f"{folder.name} {what} {len(keys)} weights, first {keys[0]}. Is it complete and of one revision?",
                param="model.path",
            )
    return model


def empty_network(folder: Path) -> Any:
    """The model on the meta device, without values; raises OSError or ValueError for a wrong config."""
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the stored tensors
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _is_complete(model: Any, stored_names: Set[str]) -> bool:
    """Whether each parameter is a stored tensor. Else names may be of an older release, or two share one tensor."""
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return stored_names >= set(parameters) and len(parameters) == len(list(model.parameters()))


def _stop_ids(model: Any) -> frozenset[int]:
    """End token ids, from the generation config of the checkpoint, else from its text config."""
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = model.config.text_config.eos_token_id
    return frozenset([eos] if isinstance(eos, int) else eos or [])
