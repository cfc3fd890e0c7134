"""The demo model's configuration, and a forward pass over a training batch.

The weights belong to the unmodified `Glm4vForConditionalGeneration`. The batched pass computes the same as that class
(tested), but processes pictures of one size as one dense batch, while the class loops over pictures in Python.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
PATCH = 14


def model_config(tokenizer: PreTrainedTokenizerFast, size: str = "full") -> dict[str, Any]:
    """The content of config.json; `size` "micro" is for trials on a CPU."""
    micro = size == "micro"
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "model_type": "glm4v_text", "vocab_size": -(-len(tokenizer) // 64) * 64, "hidden_size": 128 if micro else 384,
        "num_hidden_layers": 2 if micro else 6, "num_attention_heads": 2 if micro else 6, "num_key_value_heads": 2,
        "intermediate_size": 256 if micro else 1024, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "max_position_embeddings": 8192, "initializer_range": 0.02, "use_cache": True, "tie_word_embeddings": False,
        # a small base: the six slowest of the sixteen frequencies encode the column and must vary within a picture
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5, "mrope_section": [4, 6, 6],
        },
        "eos_token_id": [ids("<|endoftext|>"), ids("<|user|>"), ids("<|observation|>")],
        "pad_token_id": ids("<|endoftext|>"),
    }  # fmt: skip
    vision = {
        "model_type": "glm4v_vision", "depth": 2 if micro else 6, "hidden_size": 128 if micro else 256,
        "num_heads": 2 if micro else 4, "out_hidden_size": text["hidden_size"],
        "intermediate_size": 256 if micro else 768,
        "image_size": 448, "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
    }  # fmt: skip
    return {
        "architectures": ["Glm4vForConditionalGeneration"], "model_type": "glm4v", "dtype": "bfloat16",
        "image_start_token_id": ids("<|begin_of_image|>"), "image_end_token_id": ids("<|end_of_image|>"),
        "video_start_token_id": ids("<|begin_of_video|>"), "video_end_token_id": ids("<|end_of_video|>"),
        "image_token_id": ids("<|image|>"), "video_token_id": ids("<|video|>"), "tie_word_embeddings": False,
        "text_config": text, "vision_config": vision,
    }  # fmt: skip


def create_model(config: dict[str, Any]) -> Glm4vForConditionalGeneration:
    return Glm4vForConditionalGeneration(Glm4vConfig(**config)).float()


class Reader(nn.Module):
    """The model with a second head for training, which classifies the characters in each patch."""

    def __init__(self, model: Glm4vForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.vision = model.model.visual
        self.text = model.model.language_model
        width, vocabulary = model.config.vision_config.hidden_size, model.config.text_config.vocab_size
        self.spotter = nn.Linear(width, vocabulary)
        self.image_token = model.config.image_token_id
        self.vision_block = _vision_block
        self.text_block = _text_block

    def compile_blocks(self) -> None:
        """Compiles one block of each kind, which all layers share, because weights are inputs."""
        self.vision_block = torch.compile(_vision_block, dynamic=True)
        self.text_block = torch.compile(_text_block, dynamic=True)

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 pictures (count, height, width, 3) as features (count, tokens, hidden) and patches before merging."""
        patches, rows, columns = _patchify(images)
        vision, count = self.vision, images.shape[0]
        # a picture counts as two equal frames, so both halves of the kernel get the same pixels
        projection = vision.patch_embed.proj
        hidden = functional.linear(patches, projection.weight.sum(2).flatten(1), projection.bias)
        hidden = vision.post_conv_layernorm(hidden)
        places = _patch_places(rows, columns, images.device)  # (patches, 2)
        hidden = hidden + _learned_places(vision.embeddings.position_embedding.weight, places, rows, columns)
        cos, sin = _angles(places, hidden.shape[-1] // vision.config.num_heads)
        for block in vision.blocks:
            hidden = self.vision_block(block, hidden, cos, sin)
        hidden = vision.post_layernorm(hidden)
        merged = hidden.reshape(-1, 2, 2, hidden.shape[-1]).permute(0, 3, 1, 2)
        merged = vision.downsample(merged).flatten(1)
        return vision.merger(merged).view(count, rows * columns // 4, -1), hidden

    def read(self, features: Tensor | None, ids: Tensor, positions: Tensor) -> Tensor:
        """Hidden states (rows, tokens, hidden); rows are padded on the right, so a causal mask is enough."""
        hidden = self.text.embed_tokens(ids)
        if features is not None:
            mask = (ids == self.image_token)[..., None]
            hidden = hidden.masked_scatter(mask, features.to(hidden.dtype))
        cos, sin = self.text.rotary_emb(hidden, positions)
        for layer in self.text.layers:
            hidden = self.text_block(layer, hidden, cos, sin)
        return self.text.norm(hidden)  # type: ignore[no-any-return]


def _patchify(images: Tensor) -> tuple[Tensor, int, int]:
    count, height, width, _ = images.shape
    mean = torch.tensor(MEAN, device=images.device)
    deviation = torch.tensor(DEVIATION, device=images.device)
    pixels = (images.float() / 255 - mean) / deviation
    rows, columns = height // PATCH, width // PATCH
    grid = pixels.view(count, rows // 2, 2, PATCH, columns // 2, 2, PATCH, 3)
    grid = grid.permute(0, 1, 4, 2, 5, 7, 3, 6)  # merge blocks together, then channel, then pixels
    return grid.reshape(count, rows * columns, 3 * PATCH * PATCH), rows, columns


def _patch_places(rows: int, columns: int, device: torch.device) -> Tensor:
    """(row, column) of each patch, in merge-block order."""
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    places = torch.stack((row, column), -1).view(rows // 2, 2, columns // 2, 2, 2)
    return places.transpose(1, 2).reshape(-1, 2)


def _learned_places(weight: Tensor, places: Tensor, rows: int, columns: int) -> Tensor:
    """The learned position embeddings, interpolated to this picture's grid: (patches, width)."""
    side = int(weight.shape[0] ** 0.5)
    square = weight.view(side, side, -1).permute(2, 0, 1)[None].float()
    across = (places[:, 1] + 0.5) / columns * 2 - 1
    down = (places[:, 0] + 0.5) / rows * 2 - 1
    grid = torch.stack((across, down), -1)[None, :, None]
    taken = functional.grid_sample(square, grid, mode="bicubic", align_corners=False, padding_mode="border")
    return taken[0, :, :, 0].T


def _angles(places: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the tower's rotary embedding, (patches, head width)."""
    steps = torch.arange(0, head // 2, 2, device=places.device, dtype=torch.float)
    turns = (places[..., None].float() / 10000.0 ** (steps / (head // 2))).flatten(
        1
    )  # rotations of rows, then of columns
    turns = torch.cat((turns, turns), -1)
    return turns.cos(), turns.sin()


def _vision_block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    attention = block.attn
    count, length, width = hidden.shape
    qkv = attention.qkv(block.norm1(hidden)).view(count, length, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (count, heads, length, head width)
    query, key = _turn(query, cos, sin), _turn(key, cos, sin)
    seen = functional.scaled_dot_product_attention(query, key, value)
    hidden = hidden + attention.proj(seen.transpose(1, 2).reshape(count, length, width))
    return hidden + block.mlp(block.norm2(hidden))  # type: ignore[no-any-return]


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = states.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos.float() + torch.cat((-second, first), -1) * sin.float()).to(states.dtype)


def _text_block(layer: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    output: Tensor = layer(hidden, attention_mask=None, position_embeddings=(cos, sin))
    return output
