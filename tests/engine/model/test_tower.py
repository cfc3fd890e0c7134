"""The GPU's vision tower against the library's module, its kernels in Triton's interpreter."""

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vVisionModel

pytest.importorskip("triton")

from serve_app.engine.model import tower
from serve_app.engine.model.tower import Tower

MEAN, STD = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])


def module(depth: int = 2, seed: int = 0) -> Glm4vVisionModel:
    torch.manual_seed(seed)
    config = Glm4vVisionConfig(
        depth=depth, hidden_size=64, num_heads=2, out_hidden_size=96, intermediate_size=160, image_size=70
    )
    made = Glm4vVisionModel(config).eval()
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.1)
    return made


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def features(run: Generator[None, None, list[torch.Tensor]]) -> tuple[list[torch.Tensor], int]:
    """What a generator returns, and how many slices there were before the last."""
    slices = 0
    while True:
        try:
            next(run)
            slices += 1
        except StopIteration as end:
            return end.value, slices


@torch.inference_mode()
def expected(module: Any, picture: torch.Tensor) -> torch.Tensor:
    """The library's features of a picture, from patches made by reshaping."""
    height, width, _ = picture.shape
    normal = (picture / 255 - MEAN) / STD
    blocks = normal.view(height // 28, 2, 14, width // 28, 2, 14, 3).permute(0, 3, 1, 4, 6, 2, 5)
    patches = blocks.reshape(-1, 3, 1, 196).expand(-1, -1, 2, -1).reshape(-1, 3 * 2 * 196)
    grid = torch.tensor([[1, height // 14, width // 14]])
    return module(patches, grid).pooler_output  # type: ignore[no-any-return]


@pytest.mark.parametrize("patches_of_a_product", [8192, 5])
def test_pictures_of_any_size_packed_together_give_what_the_module_gives_for_each(
    patches_of_a_product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tower, "_MLP_PATCHES", patches_of_a_product)
    library = module()
    pictures = [picture(56, 28, 1), picture(28, 28, 2), picture(28, 140, 3)]  # a side above and below its own grid
    reference = [expected(library, one) for one in pictures]
    found, _ = features(Tower(library, MEAN, STD).encode(pictures))
    for got, wanted in zip(found, reference, strict=True):
        assert got.shape == wanted.shape
        assert (got - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_the_module_works_as_before_once_the_tower_shares_its_weights() -> None:
    library, one = module(), picture(56, 28, 1)
    before = expected(library, one)
    names = {name: value.clone() for name, value in library.state_dict().items()}
    Tower(library, MEAN, STD)
    assert torch.equal(expected(library, one), before)
    assert all(torch.equal(value, names[name]) for name, value in library.state_dict().items())


def test_layers_run_in_slices_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    tower, one = Tower(module(depth=3), MEAN, STD), [picture(56, 56, 1)]
    at_once, slices = features(tower.encode(one))
    assert slices == 0  # a small picture is not worth an interruption
    monkeypatch.setattr("serve_app.engine.model.tower._SLICE_PATCHES", 16)
    in_slices, slices = features(tower.encode(one))
    assert slices == 2
    assert torch.equal(at_once[0], in_slices[0])


def numbers_of_patches(made: Tower) -> list[int]:
    """The numbers of patches that the first product of the first layer gets from now on."""
    qkv, *others = made._layers[0]
    seen: list[int] = []

    def recorded(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return qkv(x)

    made._layers = [(recorded, *others)]
    return seen


def test_products_see_only_multiples_of_128_patches() -> None:
    made = Tower(module(depth=1), MEAN, STD)
    seen = numbers_of_patches(made)
    features(made.encode([picture(56, 28, 1)]))
    features(made.encode([picture(28 * 9, 28 * 4, 2)]))
    assert seen == [128, 256]


def test_the_warm_up_computes_each_number_of_patches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tower, "_WARM_PATCHES", 384)
    made = Tower(module(depth=1), MEAN, STD)
    seen = numbers_of_patches(made)
    made.warm_up()
    assert seen == [384, 256, 128]


def test_attention_of_packed_pictures_stays_within_each() -> None:
    from serve_app.engine.model.kernels import vision

    lengths, heads, dim = [150, 20, 130], 2, 64  # the tiles of a picture's end hold patches of the next
    qkv = torch.randn(sum(lengths), 3 * heads * dim, generator=torch.Generator().manual_seed(0)).half()
    starts = torch.tensor([0, 150, 170, 300], dtype=torch.int32)
    found = vision.attend(qkv, starts, max(lengths), heads).split(lengths)
    for part, got in zip(qkv.split(lengths), found, strict=True):
        thirds = part.float().view(len(part), 3, heads, dim).permute(1, 2, 0, 3)
        expected = scaled_dot_product_attention(*thirds).transpose(0, 1).flatten(1)
        assert (got.float() - expected).norm() <= 1e-3 * expected.norm()
