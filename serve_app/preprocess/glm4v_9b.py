"""GLM-4V-9B (2024): pictures resized to one square, prompts as in its own code, tokenizer.model.

Source: tokenization_chatglm.py of THUDM/glm-4v-9b, which is not needed at run time. Every message is
`<|role|>`, a line break, the picture if the message has it, the text; the prompt ends with `<|assistant|>`,
and the model itself writes the line break that follows. A picture is placed before the text of its message,
wherever the caller put it. A conversation has at most one picture, which later questions can refer to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.contracts import ChatRequest, Detail, ImagePart, Message, TextPart
from serve_app.errors import InvalidRequest
from serve_app.model_families import model_family
from serve_app.preprocess.bpe import TiktokenBpe, encode_within
from serve_app.preprocess.family_processor import ContextLimit, TokenizedPrompt, sort_abilities
from serve_app.preprocess.message_checks import check_length
from serve_app.preprocess.normalize_messages import normalize_messages, text_of
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.raw_prompt import encode_raw
from serve_app.preprocess.size_rule import SizeRule
from serve_app.preprocess.special_token_escape import replace_surrogates
from serve_app.preprocess.thinking import ThinkingAbility, resolve_thinking
from serve_app.settings import ModelSettings, PreprocessSettings

# In the order of their ids, which follow the ids of the vocabulary.
SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
_CONFIG_TOKENS = {
    "boi_token_id": "<|begin_of_image|>",
    "eoi_token_id": "<|end_of_image|>",
    "pad_token_id": "<|endoftext|>",
}
_PROMPT_START = ("[gMASK]", "<sop>")
_POSITIONS = 3  # of a picture: all its patches share one, between those of begin and end


class Glm4v9bProcessor:
    """The family's processor for one checkpoint; all values come from the checkpoint's own files."""

    abilities = sort_abilities(())

    def __init__(
        self, folder: Path, config: dict[str, Any], model: ModelSettings, settings: PreprocessSettings
    ) -> None:
        """Raises InvalidRequest if tokenizer and config are missing or contradict each other."""
        family = model_family(config, folder)
        self.max_pictures = family.max_pictures
        vision = config["vision_config"]
        self._side = int(vision["image_size"])
        patches = (self._side // int(vision["patch_size"]) // 2) ** 2
        self._positions = family.positions(config) or 0
        self._context_tokens = model.context_tokens
        self._bpe = TiktokenBpe(folder / "tokenizer.model")
        self._line_break = self._bpe.encode("\n")
        self._special = _special_ids(folder, self._bpe.ranks)
        _check_config(config, self._special)
        self._picture = self._ids("<|begin_of_image|>", *["<|endoftext|>"] * patches, "<|end_of_image|>")

    def context_limit(self, pictures: int) -> ContextLimit:
        """The model limits *positions*, of which a picture takes 3, although it takes more cache tokens."""
        shared = len(self._picture) - _POSITIONS if pictures else 0
        if self._context_tokens <= self._positions + shared:
            return ContextLimit(self._context_tokens)
        of_picture = f", of which a picture takes {_POSITIONS}" if pictures else ""
        return ContextLimit(self._positions + shared, f"the model has {self._positions} positions{of_picture}")

    def size_rule(self, detail: Detail) -> SizeRule:
        return SizeRule(square=self._side)

    def target_size(self, width: int, height: int, detail: Detail, name: ImageLabel) -> tuple[int, int]:
        """Always the one square of the model, whatever the aspect ratio and the detail.

        With `original`, a picture larger than the square is refused.
        """
        if detail == "original" and max(width, height) > self._side:
            raise name.rejected(
                f"is {width} x {height}; this model sees every picture at {self._side} x {self._side}"
                f" ({len(self._picture)} tokens). Send another detail than original"
            )
        return self._side, self._side

    def picture_tokens(self, width: int, height: int) -> int:
        return len(self._picture)

    def tokenize(self, request: ChatRequest, counts: Sequence[int], limit: int) -> TokenizedPrompt:
        thinking = resolve_thinking(request.thinking, ThinkingAbility())
        token_ids = self._ids(*_PROMPT_START)
        if request.text is not None:
            start = token_ids if request.special_tokens else []
            token_ids = encode_raw(request.text, start, self._bpe, self._special, limit, request.param)
            return TokenizedPrompt(np.asarray(token_ids, dtype=np.int32), thinking)
        messages = normalize_messages(request.messages)
        check_length(messages, None, self._bpe.longest_token, limit, request.param)
        # like the original, which leaves out empty messages
        messages = [message for message in messages if message.parts not in ((), (TextPart(""),))]
        texts = encode_within(self._bpe, list(map(_text, messages)), limit, request.param)
        for message, text in zip(messages, texts, strict=True):
            picture = self._picture if any(isinstance(part, ImagePart) for part in message.parts) else []
            token_ids += [*self._ids(f"<|{message.role}|>"), *self._line_break, *picture, *text]
        if not request.continue_last:
            token_ids += self._ids("<|assistant|>")
        return TokenizedPrompt(np.asarray(token_ids, dtype=np.int32), thinking)

    def _ids(self, *specials: str) -> list[int]:
        return [self._special[token] for token in specials]


def _text(message: Message) -> str:
    """The text of a message without the line break before an answer, which the prompt has already."""
    text = replace_surrogates(text_of(message))
    return text.removeprefix("\n") if message.role == "assistant" else text


def _special_ids(folder: Path, ranks: Mapping[bytes, int]) -> dict[str, int]:
    """Ids in the order of SPECIALS after the vocabulary; ids in tokenizer_config.json have priority."""
    special = {token: len(ranks) + index for index, token in enumerate(SPECIALS)}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        special |= {token["content"]: int(number) for number, token in added.items()}
    numbers = list(special.values())
    if len({*numbers}) < len(numbers) or not {*numbers}.isdisjoint(ranks.values()):
        raise InvalidRequest(f"Special tokens of {folder} have ids that other tokens have too.", param="model.path")
    return special


def _check_config(config: Mapping[str, Any], special: Mapping[str, int]) -> None:
    for name, token in _CONFIG_TOKENS.items():
        if config.get(name) != special[token]:
            raise InvalidRequest(
                f"config.json has {name} {config.get(name)}, but in the tokenizer {token} is {special[token]}. Use both"
                " files of one revision.",
                param="model.path",
            )
    ends = config.get("eos_token_id", [])
    if not {*(ends if isinstance(ends, list) else [ends])} <= {*special.values()}:
        raise InvalidRequest(
            f"config.json has eos_token_id {ends}, which are not all special tokens of the tokenizer. Use both"
            " files of one revision.",
            param="model.path",
        )
