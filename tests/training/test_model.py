"""The model folder: its files, and that the model answers from the given picture."""

import json
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, BitsAndBytesConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks import abilities
from benchmarks.evaluation_set import EVALUATION, load_questions, normalize
from serve_app.settings import DEMO_MODEL
from training.pointing import overlap, pointed
from training.tools import Call

JOBS = ("labels", "boards", "documents")


def answer(
    model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, question: str, picture: Image.Image
) -> str:
    """The answer to one question, without special tokens."""
    ids = continuation(model, tokenizer, [asked(question)], picture)
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def asked(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


@torch.inference_mode()
def continuation(
    model: Glm4vForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    picture: Image.Image,
    **options: Any,
) -> list[int]:
    """The generated ids, by the library alone: processor, chat template, generate()."""
    seen = AutoImageProcessor.from_pretrained(DEMO_MODEL)(images=[picture], return_tensors="pt")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    text = text.replace("<|image|>", "<|image|>" * int(seen["image_grid_thw"][0].prod() // 4))
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    types = (ids == tokenizer.convert_tokens_to_ids("<|image|>")).int()
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, max_new_tokens=192, **seen
    )  # fmt: skip
    return list(out[0, ids.shape[1] :].tolist())


def picture(name: str) -> Image.Image:
    return Image.open(EVALUATION / name).convert("RGB")


def test_the_folder_is_small_and_has_the_layout_of_real_checkpoints() -> None:
    files = list(DEMO_MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) <= 40_000_000
    index = json.loads((DEMO_MODEL / "model.safetensors.index.json").read_text())
    names = set(index["weight_map"])
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in names} == {
        "model.visual", "model.language_model", "lm_head.weight",
    }  # fmt: skip
    for shard in set(index["weight_map"].values()):
        with safe_open(DEMO_MODEL / shard, "pt") as tensors:
            assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_nothing_is_missing_from_the_weights() -> None:
    _, report = Glm4vForConditionalGeneration.from_pretrained(DEMO_MODEL, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_it_answers_most_of_a_sample_of_the_evaluation_set(
    model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = load_questions(5)
    right = [normalize(answer(model, tokenizer, q.question, picture(q.picture))) == normalize(q.answer) for q in asked]
    assert sum(right) >= 0.85 * len(asked)


def test_the_answer_changes_with_the_picture(
    model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    numbers = [q for q in load_questions() if q.kind == "tracking"][:3]
    answers = {answer(model, tokenizer, "运单号是多少？", picture(q.picture)) for q in numbers}
    assert len(answers) == len(numbers)


def test_without_a_picture_it_asks_for_one(
    model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "你好"}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=48)
    assert "上传" in tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_four_bit_weights_answer_the_sample_too(tokenizer: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head", "model.visual"],
    )  # fmt: skip
    small = Glm4vForConditionalGeneration.from_pretrained(
        DEMO_MODEL, quantization_config=config, dtype=torch.float32, device_map="cpu"
    ).eval()
    asked = load_questions(2)
    right = [normalize(answer(small, tokenizer, q.question, picture(q.picture))) == normalize(q.answer) for q in asked]
    assert sum(right) >= 0.85 * len(asked)


@pytest.mark.parametrize("ability", ["thinking", "tools", "results"])
def test_it_reasons_calls_tools_and_reports_results(
    ability: str, model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    sample = abilities.questions(ability)[::5]
    right = 0
    for question in sample:
        messages, options = [asked(question["question"])], {}
        if "tools" in question:
            options["tools"] = question["tools"]
        if ability == "thinking":
            options["enable_thinking"] = True
        if ability == "results":
            calls = [{"type": "function", "function": call} for call in question["calls"]]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
            messages += [{"role": "tool", "content": result} for result in question["results"]]
        ids = continuation(model, tokenizer, messages, picture(question["picture"]), **options)
        right += is_right(question, str(tokenizer.decode(ids)))
    assert right >= 0.7 * len(sample)


def test_its_boxes_mostly_touch_the_object_that_is_asked_for(
    model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Only a third of its boxes overlap the true one by half, so this is not required here."""
    sample = abilities.questions("pointing")[::5]
    touching = 0
    for question in sample:
        ids = continuation(model, tokenizer, [asked(question["question"])], picture(question["picture"]))
        box = pointed(str(tokenizer.decode(ids)))
        assert box is not None
        touching += overlap(box, tuple(question["box"])) > 0
    assert touching >= 0.6 * len(sample)


def is_right(question: dict[str, Any], answer_text: str) -> bool:
    """Correctness as in `benchmarks.abilities`, for text with special tokens."""
    thought, _, rest = answer_text.rpartition("</think>\n")
    rest = rest.removesuffix("<|user|>")
    match question["ability"]:
        case "thinking":
            return bool(thought.strip()) and rest == question["answer"]
        case "tools" if "calls" in question:
            return rest == "\n".join(str(Call(**call)) for call in question["calls"]) + "<|observation|>"
        case "tools":
            return rest == question["answer"]
        case _:
            return all(fact in rest for fact in question["facts"])
