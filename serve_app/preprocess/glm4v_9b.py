"""GLM-4V-9B (2024): pictures squashed to one size, the original prompt, its tokenizer.model.

Source: tokenization_chatglm.py of THUDM/glm-4v-9b, whose remote code is not needed. Every message is
`<|role|>`, a line break, the picture if the message has it, the text; the prompt ends with `<|assistant|>`,
and the model itself writes the line break that follows. A picture stands before the text of its message,
wherever the caller put it, and there is one in a whole conversation, kept over turns.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.contracts import ChatRequest, Detail
from serve_app.errors import InvalidRequest
from serve_app.preprocess import conversation
from serve_app.preprocess.bpe import TiktokenBpe, encode_within
from serve_app.preprocess.conversation import Turn
from serve_app.preprocess.family import Context, Reading, in_order
from serve_app.preprocess.images import Name
from serve_app.preprocess.special_token_escape import valid
from serve_app.preprocess.thinking import ThinkingAbility, resolve
from serve_app.settings import ModelSettings

MODEL_TYPE = "chatglm"
# In the order of their ids, which follow those of the vocabulary.
SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
_OF_CONFIG = {"boi_token_id": "<|begin_of_image|>", "eoi_token_id": "<|end_of_image|>", "pad_token_id": "<|endoftext|>"}
_BEGIN = ("[gMASK]", "<sop>")
_POSITIONS = 3  # of a picture: all its patches share one (between the marks)


class Glm4v9b:
    """The family's rules for one checkpoint, all from its own files."""

    max_pictures = 1
    abilities = in_order(())

    def __init__(self, folder: Path, config: dict[str, Any], model: ModelSettings) -> None:
        """Raises InvalidRequest if tokenizer and config are missing or contradict each other."""
        vision = config["vision_config"]
        self._side = int(vision["image_size"])
        patches = (self._side // int(vision["patch_size"]) // 2) ** 2
        self._positions = int(config["seq_length"])
        self._context_tokens = model.context_tokens
        self._bpe = TiktokenBpe(folder / "tokenizer.model")
        self._line_break = self._bpe.encode("\n")
        self._special = _special_ids(folder, self._bpe.ranks)
        _check_config(config, self._special)
        self._picture = self._ids("<|begin_of_image|>", *["<|endoftext|>"] * patches, "<|end_of_image|>")

    def context(self, pictures: int) -> Context:
        """The model has a number of *positions*; a picture takes 3 of them, but `tokens` of the cache."""
        spared = len(self._picture) - _POSITIONS if pictures else 0
        if self._context_tokens <= self._positions + spared:
            return Context(self._context_tokens)
        of_picture = f", of which a picture takes {_POSITIONS}" if pictures else ""
        return Context(self._positions + spared, f"the model has {self._positions} positions{of_picture}")

    def seen_size(self, width: int, height: int, detail: Detail, name: Name) -> tuple[int, int]:
        """Always the one square the model knows, whatever the aspect.

        So `low` saves nothing, and `original` is refused for what is larger than the square.
        """
        if detail == "original" and max(width, height) > self._side:
            raise name.rejected(
                f"is {width} x {height}; this model sees every picture at {self._side} x {self._side}"
                f" ({len(self._picture)} tokens), so not at its original size"
            )
        return self._side, self._side

    def tokens(self, width: int, height: int) -> int:
        return len(self._picture)

    def read(self, request: ChatRequest, counts: Sequence[int], limit: int) -> Reading:
        thinking = resolve(request.thinking, ThinkingAbility())
        if request.text is not None:
            text = encode_within(self._bpe, [valid(request.text)], limit, "prompt")[0]
            return Reading(np.asarray(self._ids(*_BEGIN) + text, dtype=np.int32), thinking)
        conversation.check(request.messages, self.abilities, limit)
        conversation.check_tools(request.tools, self.abilities)
        spoken = conversation.turns(request.messages)
        conversation.check_length(spoken, None, self._bpe.longest_token, limit)
        # like the original, which leaves out messages that say nothing
        spoken = [turn for turn in spoken if turn.content not in ((), ("",))]
        texts = encode_within(self._bpe, list(map(_text, spoken)), limit, "messages")
        token_ids = self._ids(*_BEGIN)
        for turn, text in zip(spoken, texts, strict=True):
            picture = self._picture if None in turn.content else []
            token_ids += [*self._ids(f"<|{turn.role}|>"), *self._line_break, *picture, *text]
        token_ids += self._ids("<|assistant|>")
        return Reading(np.asarray(token_ids, dtype=np.int32), thinking)

    def _ids(self, *specials: str) -> list[int]:
        return [self._special[token] for token in specials]


def _text(turn: Turn) -> str:
    """What the model reads of a turn; the line break before an answer is the prompt's, even if a caller kept it."""
    return valid(turn.text.removeprefix("\n") if turn.role == "assistant" else turn.text)


def _special_ids(folder: Path, ranks: Mapping[bytes, int]) -> dict[str, int]:
    """Ids by the order of SPECIALS after the vocabulary; what tokenizer_config.json says of them wins."""
    special = {token: len(ranks) + index for index, token in enumerate(SPECIALS)}
    path = folder / "tokenizer_config.json"
    if path.is_file():
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        special |= {token["content"]: int(number) for number, token in added.items()}
    numbers = list(special.values())
    if len({*numbers}) < len(numbers) or not {*numbers}.isdisjoint(ranks.values()):
        raise InvalidRequest(f"special tokens of {folder} have ids that other tokens have too", param="model.path")
    return special


def _check_config(config: Mapping[str, Any], special: Mapping[str, int]) -> None:
    for name, token in _OF_CONFIG.items():
        if config.get(name) != special[token]:
            raise InvalidRequest(
                f"config.json has {name} {config.get(name)}, but in the tokenizer {token} is {special[token]}",
                param="model.path",
            )
    ends = config.get("eos_token_id", [])
    if not {*(ends if isinstance(ends, list) else [ends])} <= {*special.values()}:
        raise InvalidRequest(
            f"config.json has eos_token_id {ends}, which are not all special tokens of the tokenizer",
            param="model.path",
        )
