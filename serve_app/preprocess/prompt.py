"""Messages -> token ids, by the checkpoint's own chat template and tokenizer.json.

What a caller writes never becomes a special token: texts, reasoning, tool definitions, names, arguments
and results are veiled before the template runs (veil.py). The rendered string is cut at its special tokens,
the veil is lifted, and the pieces between are encoded by a vocabulary that knows no special tokens.

This is how the tokenizer itself proceeds (cut at special tokens, then encode what is between), so for
texts without look-alikes the ids equal `apply_chat_template`'s, with the same merges where template and
text meet.

One typed word has a meaning: `/nothink` at the very end of the user's last question switches thinking
off, as GLM-4.5V and 4.6V document it, if the request itself says nothing of thinking. The template then
writes the token. Anywhere else, and for models without that switch, `/nothink` is text.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import ImagePart, Message, TextPart, ToolCall, ToolUse
from serve_app.errors import InvalidRequest, ServiceError
from serve_app.preprocess import conversation
from serve_app.preprocess.bpe import HubBpe, check_sample, encode_within
from serve_app.preprocess.conversation import Turn
from serve_app.preprocess.special_token_escape import Veil, valid
from serve_app.preprocess.template import ChatTemplate, holds_in_order
from serve_app.preprocess.thinking import ThinkingAbility

_PROBE = ("Be brief.", "What is shown?", "A cat.", "And here?")
_BEGIN = ("[gMASK]", "<sop>")  # how every text begins, with or without a template
_TOOL_MARKS = {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}
_THINK_MARKS = {"<think>", "</think>"}
_ANSWER_MARKS = {"<answer>", "</answer>"}  # GLM-4.1V-Thinking's: it always writes <think>…</think><answer>…</answer>


class ChatTokenizer:
    """Writes a conversation as token ids, one image placeholder a picture (not yet expanded)."""

    def __init__(self, folder: Path, image_token: int) -> None:
        """Load template and tokenizer; raises ServiceError if they do not keep texts and pictures whole."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(f"the model folder {folder} has no tokenizer.json", param="model.path")
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        added: dict[str, int] = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        self._special = {token: number for token, number in added.items() if not token.isspace()}
        self._cut = re.compile("(" + "|".join(map(re.escape, sorted(self._special, key=len, reverse=True))) + ")")
        self._bpe = HubBpe(tokenizer)
        self._image_token = image_token
        image = next((token for token, number in self._special.items() if number == image_token), "")
        self._picture = f"<|begin_of_image|>{image}<|end_of_image|>"
        self._template = ChatTemplate(folder)
        self._veil = Veil.over(tuple(self._special), self._template.words)
        self._traits = self._template.probe(self._veil.cover, self._picture)
        self._answer_marks = self._special.keys() >= _ANSWER_MARKS
        self.thinking = self._thinking_ability()
        self.abilities = self._abilities()
        self._probe()

    def encode(
        self, messages: Sequence[Message], limit: int, tools: ToolUse | None = None, think: bool | None = None
    ) -> NDArray[np.int32]:
        """Token ids (tokens,) of the conversation and the head of the answer.

        `think` sets the template's switch, where it has one; None leaves it as it is. Raises InvalidRequest
        for a conversation without a question or what the served model can't be told, and ContextTooLong
        for a text that cannot fit `limit` tokens, before time is spent on it.
        """
        conversation.check(messages, self.abilities, limit)
        conversation.check_tools(tools, self.abilities)
        spoken = conversation.turns(messages, self._answer_marks)
        conversation.check_length(spoken, tools, self._bpe.longest_token, limit)
        for turn in spoken:
            check_sample(self._bpe, valid(turn.text), limit, "messages")
        switch = think if self.thinking.switch else None
        if switch is False:
            spoken = conversation.without_switch(spoken)
        token_ids = self._ids(self._render(spoken, tools, switch), limit)
        pictures = sum(isinstance(part, ImagePart) for message in messages for part in message.parts)
        if int((token_ids == self._image_token).sum()) != pictures:
            raise ServiceError("the model's chat template does not write one placeholder for each picture")
        return token_ids

    def encode_text(self, text: str, limit: int) -> NDArray[np.int32]:
        """Token ids (tokens,) of a text that is continued as it stands: no template, no special token in it.

        Raises ContextTooLong as `encode`.
        """
        begin = [self._special[token] for token in _BEGIN if token in self._special]
        return np.asarray(begin + encode_within(self._bpe, [valid(text)], limit, "prompt")[0], dtype=np.int32)

    def _render(self, spoken: Sequence[Turn], tools: ToolUse | None, switch: bool | None) -> str:
        definitions = [self._veil.cover(tool.definition) for tool in tools.tools] if tools else None
        told = [self._as_template_input(turn) for turn in spoken]
        rendered = self._template.render(told, definitions, switch)
        if not holds_in_order(rendered, [text for turn in told for text in _texts(turn["content"])]):
            raise ServiceError("the model's chat template loses or reorders the texts of a conversation")
        return rendered

    def _as_template_input(self, turn: Turn) -> dict[str, Any]:
        told: dict[str, Any] = {"role": turn.role, "content": self._content(turn)}
        if turn.role == "assistant":
            told["reasoning_content"] = self._veil.cover(turn.reasoning)
        if turn.role == "tool":
            told["tool_call_id"] = self._veil.cover(turn.call_id)
        if turn.calls:
            told["tool_calls"] = [
                {
                    "id": self._veil.cover(call.id),
                    "type": "function",
                    "function": {"name": self._veil.cover(call.name), "arguments": self._veil.cover(arguments)},
                }
                for call, arguments in turn.calls
            ]
        return told

    def _content(self, turn: Turn) -> str | list[dict[str, Any]]:
        texts = [None if piece is None else self._veil.cover(piece) for piece in turn.content]
        if turn.role == "tool" and not self._traits.result_parts:
            return "".join(self._picture if text is None else text for text in texts)
        if None not in texts:
            return "".join(filter(None, texts))
        return [{"type": "image"} if text is None else {"type": "text", "text": text} for text in texts]

    def _ids(self, rendered: str, limit: int) -> NDArray[np.int32]:
        pieces = self._cut.split(rendered)  # text, special, text, special, ..., text
        texts = [self._veil.uncover(piece) for piece in pieces[0::2]]
        specials = [self._special[piece] for piece in pieces[1::2]]
        token_ids: list[int] = []
        for number, encoded in enumerate(encode_within(self._bpe, texts, limit, "messages")):
            token_ids += encoded
            token_ids += specials[number : number + 1]
        return np.asarray(token_ids, dtype=np.int32)

    def _thinking_ability(self) -> ThinkingAbility:
        marked = self._special.keys() >= _THINK_MARKS
        if self._traits.thinking_switch:
            return ThinkingAbility(switch=True, default=self._traits.thinks_by_default, budget=marked)
        always = marked and self._answer_marks
        return ThinkingAbility(always=always, budget=always)

    def _abilities(self) -> frozenset[str]:
        known = self._special.keys()
        found = {
            "thinking": self.thinking.possible,
            "thinking_switch": self.thinking.switch,
            "thinking_budget": self.thinking.budget,
            "tools": self._traits.tools and known >= _TOOL_MARKS,
            "boxes": "<|begin_of_box|>" in known,
        }
        found["tool_images"] = found["tools"] and (self._traits.result_parts or not self._cut.sub("", self._picture))
        return frozenset(name for name, can in found.items() if can)

    def _probe(self) -> None:
        """Refuse at the start what would go wrong in every request."""
        for token, number in self._special.items():
            if number in self._bpe.encode(token):
                raise ServiceError(f"the tokenizer makes the special token {token!r} from plain text")
        system, question, answer, follow_up = (TextPart(text) for text in _PROBE)
        picture = ImagePart(b"")
        messages = [
            Message("system", (system,)),
            Message("user", (picture, question)),
            Message("assistant", (answer,)),
            Message("user", (follow_up, picture)),
        ]
        if "tool_images" in self.abilities:
            call = ToolCall("1", "look", '{"at": "it"}')
            result = Message("tool", (follow_up, picture), tool_call_id="1")
            messages += [Message("assistant", (), tool_calls=(call,)), result]
        self.encode(messages, limit=1_000_000)


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
