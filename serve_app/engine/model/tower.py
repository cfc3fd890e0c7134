"""The vision tower of GLM-4.1V and GLM-4.6V on a GPU: packed pictures, fused kernels, slices of layers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch.nn.functional import gelu, grid_sample, linear, pad, scaled_dot_product_attention

from serve_app.engine.model.kernels import available, kernels_for
from serve_app.engine.model.products import product

_SLICE_PATCHES = 5 * 6400  # patches times layers of a slice: 5 of 24 layers of a 1120x1120 picture, 7 ms on an H200
_MLP_PATCHES = 8192  # of one product with the gate and up weights
_WARM_PATCHES = 16384  # 4,096 image tokens
_PATCH_MULTIPLE = 128  # between two sizes: at the first use of a size, cuBLAS looks for a kernel for each product

Features = list[torch.Tensor]


class Tower:
    """Runs transformers' `Glm4vVisionModel` by kernels of our own over the module's weights.

    The gate and up weights of a layer become views of one tensor (`product`); the module still works, and
    is the reference in tests. Rounding follows the module: norms and rotary embedding in float32, each result
    in the module's type. Attention and products differ in the order of their sums only.
    """

    def __init__(self, module: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
        """`mean` and `std`, float32 (3,) on the module's device, normalize the pixels."""
        from serve_app.engine.model.kernels import vision  # imported late: a CPU installation has no Triton

        self._vision = vision
        self._module = module
        self._mean, self._std = mean, std
        config = module.config
        self._heads: int = config.num_heads
        self._patch: int = config.patch_size
        self._merge: int = config.spatial_merge_size
        self._eps: float = module.post_layernorm.variance_epsilon
        self._layers = [
            (
                product(block.attn.qkv),
                product(block.attn.proj),
                product(block.mlp.gate_proj, block.mlp.up_proj),
                product(block.mlp.down_proj),
            )
            for block in module.blocks
        ]
        merger = module.merger
        self._merger = product(merger.proj), product(merger.gate_proj, merger.up_proj), product(merger.down_proj)
        self._kernels = kernels_for(module.patch_embed.proj.weight.device)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[torch.Tensor]) -> Generator[int, None, Features]:
        """Features (tokens, hidden of the text trunk) of each picture.

        Pictures are uint8 (height, width, 3) on the device, with sides that are multiples of
        patch * merge. The generator yields after each slice of layers, so that other work can run; what it yields is
        the slice's share of the work, in image tokens.
        """
        grids = [(picture.shape[0] // self._patch, picture.shape[1] // self._patch) for picture in pictures]
        of_pictures = [rows * columns for rows, columns in grids]
        padding = -sum(of_pictures) % _PATCH_MULTIPLE
        lengths = [*of_pictures, *([padding] if padding else [])]  # padding is computed like a picture
        angles = pad(torch.cat([self._angles(*grid) for grid in grids]), (0, 0, 0, padding))
        cos, sin = angles.cos(), angles.sin()
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, pin_memory=angles.is_cuda)
        starts = starts.to(angles.device, non_blocking=True)
        blocks = self._module.blocks
        norms = [*(block.norm1.weight for block in blocks), self._module.post_layernorm.weight]
        residual = pad(torch.cat([self._positions(*grid) for grid in grids]), (0, 0, 0, padding))
        hidden = self._add_norm(
            self._embed(pictures, lengths), residual, self._module.post_conv_layernorm.weight, norms[0]
        )
        slice_layers = max(1, _SLICE_PATCHES // len(hidden))
        tokens = len(hidden) // self._merge**2
        for index, (block, products) in enumerate(zip(blocks, self._layers, strict=True)):
            if index and index % slice_layers == 0:
                yield max(1, tokens * slice_layers // len(blocks))
            qkv, output, gate_up, down = products
            mixed = qkv(hidden)
            self._vision.rotate_halves(mixed, cos, sin, self._heads)
            attended = output(self._attend(mixed, starts, lengths))
            hidden = self._add_norm(attended, residual, None, block.norm2.weight)
            # In parts: the widest values of 25,600 patches (2240x2240) would take 2 GiB.
            parts = [down(self._kernels.silu_mul(gate_up(part))) for part in hidden.split(_MLP_PATCHES)]
            mlp_output = parts[0] if len(parts) == 1 else torch.cat(parts)
            hidden = self._add_norm(mlp_output, residual, None, norms[index + 1])
        features = self._merge_patches(hidden).split([length // self._merge**2 for length in lengths])
        return list(features[: len(pictures)])

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compute each product once for all numbers of patches that pictures computed together usually have."""
        projection = self._module.patch_embed.proj
        weight = projection.weight.flatten(1)
        qkv, output, gate_up, down = self._layers[0]
        for patches in range(_WARM_PATCHES, 0, -_PATCH_MULTIPLE):
            hidden = linear(weight.new_zeros(patches, weight.shape[1]), weight, projection.bias)
            qkv(hidden)
            output(hidden)
            down(self._kernels.silu_mul(gate_up(hidden[:_MLP_PATCHES])))
            self._merge_patches(hidden)

    def _attend(self, qkv: torch.Tensor, starts: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Every patch sees every patch of its picture: qkv (patches, 3 * heads * dim) to (patches, heads * dim)."""
        if qkv.is_cuda and qkv.dtype != torch.float32:
            if torch.cuda.get_device_capability(qkv.device)[0] == 9:
                return self._vision.attend(qkv, starts, max(lengths), self._heads)
            from torch.nn.attention.varlen import varlen_attn  # FlashAttention 2

            query, key, value = qkv.view(len(qkv), 3, self._heads, -1).unbind(1)
            attended = varlen_attn(query, key, value, starts, starts, max(lengths), max(lengths))
            return attended.flatten(1)  # type: ignore[union-attr]
        parts = [part.view(len(part), 3, 1, self._heads, -1).permute(1, 2, 3, 0, 4) for part in qkv.split(lengths)]
        return torch.cat([scaled_dot_product_attention(*one)[0].transpose(0, 1).flatten(1) for one in parts])

    def _add_norm(
        self, output: torch.Tensor, residual: torch.Tensor, post: torch.Tensor | None, weight: torch.Tensor
    ) -> torch.Tensor:
        return self._kernels.add_norm(output, residual, post, weight, self._eps)  # type: ignore[no-any-return]

    def _embed(self, pictures: Sequence[torch.Tensor], lengths: list[int]) -> torch.Tensor:
        """Embeddings (patches, hidden) of all patches of all pictures, and of padding if there is one length more."""
        projection = self._module.patch_embed.proj
        weight = projection.weight.flatten(1)
        patches = weight.new_zeros(sum(lengths), weight.shape[1])
        for picture, part in zip(pictures, patches.split(lengths), strict=False):
            self._vision.patchify(picture, self._mean, self._std, self._patch, self._merge, part)
        return linear(patches, weight, projection.bias)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        """The learned position embedding (patches, hidden), interpolated to a grid as the module does.

        Bicubic interpolation is separable: one product for each axis takes 0.3 ms where `grid_sample` over
        all patches takes 2.5 (1120x1120, H200), so nothing needs to be cached by grid.
        """
        weight = self._module.embeddings.position_embedding.weight
        side = int(weight.shape[0] ** 0.5)
        down, across = (_axis_weights(length, side, weight.device) for length in (rows, columns))
        table = torch.tensordot(down, weight.view(side, side, -1).float(), 1)  # (rows, side, hidden)
        return self._in_order((across @ table).to(weight.dtype))

    def _angles(self, rows: int, columns: int) -> torch.Tensor:
        """Rotary angles, float32 (patches, head_dim / 2): the first half by row, the second by column."""
        frequencies = self._module.rotary_pos_emb.inv_freq.float()
        down, across = (torch.arange(n, device=frequencies.device)[:, None] * frequencies for n in (rows, columns))
        grid = torch.cat([down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)], dim=-1)
        return self._in_order(grid)

    def _in_order(self, grid: torch.Tensor) -> torch.Tensor:
        """(rows, columns, size) to (patches, size): the merge x merge patches of a token follow each other."""
        rows, columns, size = grid.shape
        blocks = grid.view(rows // self._merge, self._merge, columns // self._merge, self._merge, size)
        return blocks.transpose(1, 2).reshape(-1, size)

    def _merge_patches(self, hidden: torch.Tensor) -> torch.Tensor:
        """Features (tokens, hidden of the text trunk) from what the last layer gives, normalized (patches, hidden)."""
        convolution, (projection, gate_up, down) = self._module.downsample, self._merger
        squares = hidden.view(-1, self._merge**2, hidden.shape[1]).transpose(1, 2).flatten(1)
        merged = projection(linear(squares, convolution.weight.flatten(1), convolution.bias))
        merged = gelu(self._module.merger.post_projection_norm(merged))
        return down(self._kernels.silu_mul(gate_up(merged)))


def supports(module: Any) -> bool:
    """Whether this class implements the tower of this module, on a GPU that runs its kernels."""
    weight = module.patch_embed.proj.weight
    return available(weight.device) and module.config.hidden_act == "silu"


def _axis_weights(length: int, side: int, device: torch.device) -> torch.Tensor:
    """Interpolation weights (length, side) along one axis: `grid_sample` of the identity matrix."""
    centers = (torch.arange(length, device=device) + 0.5) / length * 2 - 1
    places = torch.stack([torch.zeros_like(centers), centers], dim=-1)[None, :, None]
    identity = torch.eye(side, device=device)[None, :, :, None]  # a channel for each embedding, one column
    sampled = grid_sample(identity, places, mode="bicubic", align_corners=False, padding_mode="border")
    return sampled[0, :, :, 0].T
