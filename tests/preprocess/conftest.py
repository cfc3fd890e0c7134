"""Checkpoint folders without weights, in the families' shapes, for preprocessors to read."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.preprocess.decoders import close_shared_decoders
from tests.preprocess.vocabulary import SPECIALS_9B, as_tokenizer_json, trained, write_tokenizer_model

SPECIAL = [*SPECIALS_9B, "<|image|>", "<|video|>"]
TOOL_MARKS = [
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>",
]  # fmt: skip
# not marked special, as in GLM-4.5
ADDED = ["<think>", "</think>", *TOOL_MARKS, "/nothink", "<|begin_of_box|>", "<|end_of_box|>"]
ADDED_41V = ["<think>", "</think>", "<answer>", "</answer>"]
PLAIN_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# GLM-4.1V's knows three roles, and neither tools nor a switch; only the user's content may be a list
GLM41V_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role in ['system', 'assistant'] %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% elif m.role == 'user' %}<|user|>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GLM45V_TEMPLATE = (Path(__file__).parent / "glm-4.5v.chat_template.jinja").read_text("utf-8")
# GLM-4.6V's also writes results that are lists of texts and pictures
_LIST_RESULT = GLM45V_TEMPLATE[
    GLM45V_TEMPLATE.index("<|observation|>{% for tr") : GLM45V_TEMPLATE.index("{%- elif m.role == 'system'")
]
GLM46V_TEMPLATE = GLM45V_TEMPLATE.replace(
    _LIST_RESULT,
    "{{- '' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|observation|>' }}"
    "{{- '\n<tool_response>\n' + visible_text(m.content) + '\n</tool_response>' }}\n{%- endif -%}\n",
)
TEMPLATES = {
    "plain": PLAIN_TEMPLATE,
    "glm-4.1v": GLM41V_TEMPLATE,
    "glm-4.5v": GLM45V_TEMPLATE,
    "glm-4.6v": GLM46V_TEMPLATE,
}
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


@pytest.fixture(scope="session", autouse=True)
def _end_decoders() -> Iterator[None]:
    yield
    close_shared_decoders()


@pytest.fixture(scope="session")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Write a folder with the given template: config, tokenizer, template, processor; no weights."""

    def write(template: str = PLAIN_TEMPLATE, added: Sequence[str] = ADDED, **config: object) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        tokenizer = _tokenizer(added)
        tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(template, "utf-8")
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        own = {
            "model_type": "glm4v",
            "image_token_id": tokenizer.convert_tokens_to_ids("<|image|>"),
            "text_config": {"max_position_embeddings": 65536},
            "vision_config": {},
        }
        (folder / "config.json").write_text(json.dumps({**own, **config}))
        return folder

    return write


@pytest.fixture(scope="session")
def write_checkpoint_9b(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """Write a folder as GLM-4V-9B's, with a small vocabulary; no weights."""

    def write(**config: object) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint-9b")
        first = len(trained())
        write_tokenizer_model(folder / "tokenizer.model", trained())
        own = {
            "model_type": "chatglm",
            "vision_config": {"image_size": 1120, "patch_size": 14},
            "seq_length": 8192,
            "pad_token_id": first,
            "eos_token_id": [first, first + 7, first + 9],
            "boi_token_id": first + 10,
            "eoi_token_id": first + 11,
        }
        (folder / "config.json").write_text(json.dumps({**own, **config}))
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(write_checkpoint: WriteCheckpoint) -> Path:
    return write_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_9b(write_checkpoint_9b: WriteCheckpoint) -> Path:
    return write_checkpoint_9b()


@pytest.fixture(scope="session")
def of_template(write_checkpoint: WriteCheckpoint) -> Callable[[str], Path]:
    """The folder of a template by its name in TEMPLATES, with that model's added tokens."""
    folders = {
        name: write_checkpoint(template, ADDED_41V if name == "glm-4.1v" else ADDED)
        for name, template in TEMPLATES.items()
    }
    return folders.__getitem__


@pytest.fixture(params=TEMPLATES)
def any_checkpoint(request: pytest.FixtureRequest, of_template: Callable[[str], Path]) -> Path:
    return of_template(request.param)


@pytest.fixture(params=["glm-4.5v", "glm-4.6v"])
def tool_checkpoint(request: pytest.FixtureRequest, of_template: Callable[[str], Path]) -> Path:
    return of_template(request.param)


def _tokenizer(added: Sequence[str]) -> PreTrainedTokenizerFast:
    core = as_tokenizer_json(trained())
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
