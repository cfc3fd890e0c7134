"""The GPU's vision tower in its real shape against the library's module: float32, bfloat16, packed and alone."""

from typing import Any

import pytest
import torch
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vVisionModel

from serve_app.engine.model.families.glm4v import replace_convolution_by_matmul

pytestmark = pytest.mark.gpu

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def full_size_module() -> Any:
    torch.manual_seed(0)
    config = Glm4vVisionConfig()
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        made = Glm4vVisionModel._from_config(config, dtype=torch.float32).eval()
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.03)
            else:
                parameter.data.uniform_(0.5, 1.5)
    replace_convolution_by_matmul(made.patch_embed.proj)
    replace_convolution_by_matmul(made.downsample)
    return made


@pytest.fixture(scope="module")
def module() -> Any:
    return full_size_module()


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda", generator=generator)


@torch.inference_mode()
def features(module: Any, pictures: list[torch.Tensor]) -> list[torch.Tensor]:
    from serve_app.engine.model.tower import Tower

    run = Tower(module, torch.tensor(MEAN, device="cuda"), torch.tensor(STD, device="cuda")).encode(pictures)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


@torch.inference_mode()
def expected(module: Any, picture: torch.Tensor) -> torch.Tensor:
    height, width, _ = picture.shape
    normal = ((picture / 255 - torch.tensor(MEAN, device="cuda")) / torch.tensor(STD, device="cuda")).to(module.dtype)
    blocks = normal.view(height // 28, 2, 14, width // 28, 2, 14, 3).permute(0, 3, 1, 4, 6, 2, 5)
    patches = blocks.reshape(-1, 3, 1, 196).expand(-1, -1, 2, -1).reshape(-1, 3 * 2 * 196)
    grid = torch.tensor([[1, height // 14, width // 14]], device="cuda")
    return module(patches, grid).pooler_output  # type: ignore[no-any-return]


def test_float32_features_are_those_of_the_module(module: Any) -> None:
    pictures = [picture(224, 308, 1), picture(56, 84, 2), picture(448, 336, 3)]
    for found, wanted in zip(features(module, pictures), [expected(module, one) for one in pictures], strict=True):
        assert (found - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_bfloat16_features_are_off_by_no_more_than_the_modules_own(module: Any) -> None:
    pictures = [picture(252, 308, 1), picture(56, 84, 2), picture(448, 336, 3)]  # lengths that fill no tile
    exact = [expected(module, one) for one in pictures]
    module.bfloat16()
    library = [expected(module, one) for one in pictures]
    packed, alone = features(module, pictures), [features(module, [one])[0] for one in pictures]
    for wanted, theirs, ours, single in zip(exact, library, packed, alone, strict=True):
        bound = 1.2 * (theirs - wanted).norm()
        assert (ours - wanted).norm() <= bound
        assert (single - wanted).norm() <= bound
        assert (single - ours).norm() <= bound
