"""Training and serving agree: ids, positions and logits of the batched pass equal the class's own."""

from random import Random

import pytest
import torch
from transformers import AutoImageProcessor, PreTrainedTokenizerFast

from serve_app.settings import DEMO_MODEL
from training import batches
from training.architecture import Reader, create_model, model_config
from training.conversations import Conversation, Writer, converse, single
from training.muon import Muon
from training.nf4 import quantized_weights, rounded, rounded_weights
from training.scenes import Scene


@pytest.fixture(scope="module")
def micro(tokenizer: PreTrainedTokenizerFast) -> Reader:
    torch.manual_seed(0)
    return Reader(create_model(model_config(tokenizer, "micro")).eval())


@pytest.fixture(scope="module")
def rendered(tokenizer: PreTrainedTokenizerFast) -> tuple[list[Scene], list[Conversation]]:
    scenes = [batches.degraded_scene("boards", seed, 1.0) for seed in range(3)]
    writer, rng = Writer(tokenizer), Random(3)
    return scenes, [
        converse(writer, scenes[:2], rng, 3),
        converse(writer, [], rng, 3),
        converse(writer, scenes[2:], rng, 3),
    ]


@torch.no_grad()
def test_the_batched_pass_equals_the_class_for_two_pictures_one_and_none(
    micro: Reader, rendered: tuple[list[Scene], list[Conversation]], tokenizer: PreTrainedTokenizerFast
) -> None:
    scenes, rows = rendered
    processor = AutoImageProcessor.from_pretrained(DEMO_MODEL)
    batch = batches.collate(scenes, rows, Writer(tokenizer))
    hidden = micro.read(micro.see(batch["images"])[0], batch["ids"], batch["positions"])
    logits = micro.model.lm_head(hidden)
    shown = iter(scenes)
    for index, row in enumerate(rows):
        ids = torch.tensor([row.ids])
        pictures = {}
        if row.images:
            pictures = dict(processor(images=[next(shown).image for _ in row.images], return_tensors="pt"))
            pictures["mm_token_type_ids"] = (ids == micro.image_token).int()
            places, _ = micro.model.model.get_rope_index(ids, pictures["mm_token_type_ids"], pictures["image_grid_thw"])
            assert torch.equal(places[:, 0], batch["positions"][:, index, : len(row.ids)])
        expected = micro.model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0]
        torch.testing.assert_close(logits[index, : len(row.ids)], expected, atol=2e-5, rtol=1e-4)


def test_a_training_row_is_what_the_chat_template_renders(tokenizer: PreTrainedTokenizerFast) -> None:
    row = single(Writer(tokenizer), (12, 16), "total", "合计是多少？", "12.50")
    question = [{"type": "image"}, {"type": "text", "text": "合计是多少？"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "12.50"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False).replace("<|image|>", "<|image|>" * 192)
    assert tokenizer.encode(text + "<|user|>", add_special_tokens=False) == row.ids


def test_the_loss_is_on_answers_and_the_role_that_ends_them(
    rendered: tuple[list[Scene], list[Conversation]], tokenizer: PreTrainedTokenizerFast
) -> None:
    for row in rendered[1]:
        answered = {at for _, first, stop in row.answers for at in range(first, stop)}
        assert {at for at, weight in enumerate(row.weights) if weight} == answered
        assert {row.ids[stop - 1] for _, _, stop in row.answers} == {tokenizer.convert_tokens_to_ids("<|user|>")}


def test_rounded_weights_are_restored(micro: Reader) -> None:
    weights = quantized_weights(micro.text)
    before = [weight.detach().clone() for weight in weights]
    with rounded_weights(weights):
        assert all(not torch.equal(a, b) for a, b in zip(weights, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


def test_nf4_rounding_is_close_to_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    torch.manual_seed(1)
    weight = torch.randn(128, 256) * 0.05
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    theirs = functional.dequantize_4bit(packed, state)
    assert (rounded(weight) - theirs).abs().max() < 0.01 * weight.abs().max()


def test_muon_changes_every_matrix_by_about_the_learning_rate() -> None:
    torch.manual_seed(2)
    matrices = {f"layers.{n}.weight": torch.nn.Parameter(torch.randn(32, 64)) for n in range(3)}
    before = [matrix.detach().clone() for matrix in matrices.values()]
    for matrix in matrices.values():
        matrix.grad = torch.randn_like(matrix)
    Muon(matrices.items()).step(rate=0.01, decay=0.0)
    for matrix, old in zip(matrices.values(), before, strict=True):
        assert 0.0005 < (matrix - old).square().mean().sqrt() < 0.01
