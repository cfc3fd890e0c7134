"""Writes a model folder in the exact shape of GLM-4.1V-9B and GLM-4.6V-Flash with random weights and a byte tokenizer.

Speed does not depend on the values of weights. The folder has all that this service, vLLM and transformers read.

    python -m benchmarks.random_model DIR --device cuda    # 20.6 GB in bfloat16
    python -m benchmarks.random_model DIR --tiny           # checks that a benchmark works
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

IMAGE_TOKEN: Final = 151343
FIRST_SPECIAL: Final = 151329
STOP_TOKENS: Final = [151329, 151336, 151338]
SPECIAL: Final = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
]
TEMPLATE: Final = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type in ['image', 'image_url'] %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PICTURES: Final[dict[str, Any]] = {
    "do_rescale": True,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "Glm4vProcessor",
}


def config(tiny: bool) -> Glm4vConfig:
    """The shape; `tiny` keeps the vocabulary and makes the layers small."""
    text: dict[str, Any] = {
        "vocab_size": 151552,
        "head_dim": 128,
        "eos_token_id": STOP_TOKENS,
        "pad_token_id": FIRST_SPECIAL,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [8, 12, 12],
            "partial_rotary_factor": 0.5,
        },
    }
    vision: dict[str, Any] = {}
    if tiny:
        text |= {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 2, "intermediate_size": 512}
        text |= {"num_key_value_heads": 1}
        vision = {"depth": 2, "hidden_size": 128, "num_heads": 4, "out_hidden_size": 256, "intermediate_size": 256}
    return Glm4vConfig(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)


def random_module(tiny: bool, device: torch.device, dtype: torch.dtype) -> Glm4vForConditionalGeneration:
    """The library's module with random weights (seed 0) on a device."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with device:
            return Glm4vForConditionalGeneration._from_config(config(tiny))
    finally:
        torch.set_default_dtype(torch.float32)


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer whose special tokens have GLM's ids."""
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {f"~{index}": index for index in range(len(vocabulary), FIRST_SPECIAL)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    assert tokenizer.token_to_id("<|image|>") == IMAGE_TOKEN
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0], padding_side="left"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def write_folder(folder: Path, tiny: bool, device: torch.device, weights: bool = True) -> None:
    """The whole folder; bfloat16 weights on a GPU, float32 on a CPU."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if weights:
        module = random_module(tiny, device, dtype)
        module.generation_config.eos_token_id = STOP_TOKENS
        module.save_pretrained(folder)
    else:
        shape = config(tiny)
        shape.architectures, shape.dtype = ["Glm4vForConditionalGeneration"], dtype
        shape.save_pretrained(folder)
    write_tokenizer(folder)
    for name, kind, longest in (("preprocessor", "image", 9633792), ("video_preprocessor", "video", 47040000)):
        values = PICTURES | {"size": {"shortest_edge": 12544, "longest_edge": longest}}
        values[f"{kind}_processor_type"] = f"Glm4v{kind.capitalize()}Processor"
        (folder / f"{name}_config.json").write_text(json.dumps(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="two small layers instead of the 9B shape")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-weights", action="store_true", help="only configuration, tokenizer and processor")
    options = parser.parse_args()
    write_folder(options.folder, options.tiny, torch.device(options.device), not options.no_weights)


if __name__ == "__main__":
    main()
