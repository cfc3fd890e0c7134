"""A checkpoint folder without weights, in the family's shape, and a preprocessor that reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = [
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
    "<|image|>", "<|video|>",
]  # fmt: skip
ADDED = ["<think>", "</think>", "/nothink", "<|begin_of_box|>", "<|end_of_box|>"]  # not marked special, as in GLM-4.5
# GLM-4's: line breaks merge with what stands before them
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GLM45V_TEMPLATE = (Path(__file__).parent / "glm-4.5v.chat_template.jinja").read_text("utf-8")
PROCESSOR = {
    "size": {"shortest_edge": 12544, "longest_edge": 9633792},
    "do_rescale": True,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Glm46VImageProcessor",
    "processor_class": "Glm46VProcessor",
}

WriteCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Write a folder with the given template: config, tokenizer, template, processor; no weights."""
    tokenizer = _tokenizer()

    def write(template: str = PLAIN_TEMPLATE, **config: object) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(template, "utf-8")
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        own = {
            "model_type": "glm4v",
            "image_token_id": tokenizer.convert_tokens_to_ids("<|image|>"),
            "text_config": {"max_position_embeddings": 65536},
        }
        (folder / "config.json").write_text(json.dumps({**own, **config}))
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(write_checkpoint: WriteCheckpoint) -> Path:
    return write_checkpoint()


@pytest.fixture(scope="session", params=["plain", "glm-4.5v"])
def any_checkpoint(request: pytest.FixtureRequest, write_checkpoint: WriteCheckpoint) -> Path:
    return write_checkpoint(PLAIN_TEMPLATE if request.param == "plain" else GLM45V_TEMPLATE)


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    corpus = [
        "What is in the picture?\n\n What does the red light mean?\n 这张图里的设备红灯代表什么？ image user | <|"
    ] * 9
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=500, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
        ),
    )
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
