"""Messages -> token ids, by the checkpoint's own chat template and tokenizer.json.

A caller's text never becomes a special token: texts, reasoning, tool definitions, names, arguments and
results are escaped before the template runs (special_token_escape.py). The rendered string is split at its
special tokens, the pieces between are unescaped and encoded with a vocabulary without special tokens.

The tokenizer itself does the same (split at special tokens, then encode the pieces), so for texts without
look-alikes the ids equal `apply_chat_template`'s, with the same merges where template and text meet.
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
from serve_app.preprocess.bpe import HubBpe, check_sample, encode_within
from serve_app.preprocess.chat_template import ChatTemplate, holds_in_order
from serve_app.preprocess.message_checks import check_length
from serve_app.preprocess.normalize_messages import normalize_messages, text_of
from serve_app.preprocess.raw_prompt import encode_raw
from serve_app.preprocess.special_token_escape import SpecialTokenEscape, replace_surrogates
from serve_app.preprocess.thinking import ThinkingAbility, remove_nothink

_PROMPT_START = ("[gMASK]", "<sop>")  # of every prompt, with or without a template
_TOOL_TOKENS = {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}
_THINK_TOKENS = {"<think>", "</think>"}
_ANSWER_TOKENS = {"<answer>", "</answer>"}  # GLM-4.1V-Thinking always writes <think>…</think><answer>…</answer>
_PICTURE = ImagePart(b"")
_EXAMPLE = (
    Message("system", (TextPart("Be brief."),)),
    Message("user", (_PICTURE, TextPart("What is shown?"))),
    Message("assistant", (TextPart("A cat."),)),
    Message("user", (TextPart("And here?"), _PICTURE)),
)
_TOOL_EXAMPLE = (
    Message("assistant", (), tool_calls=(ToolCall("1", "look", {"at": "it"}),)),
    Message("tool", (TextPart("And here?"), _PICTURE), tool_call_id="1"),
)


class ChatTokenizer:
    """Encodes a conversation with one image placeholder for each picture (not yet expanded)."""

    def __init__(self, folder: Path, image_token: int) -> None:
        """Load template and tokenizer; raises ServiceError if they lose texts or pictures."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(f"The model folder {folder} has no tokenizer.json.", param="model.path")
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        added: dict[str, int] = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        self._special = {token: number for token, number in added.items() if not token.isspace()}
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self._special, key=len, reverse=True))) + ")")
        self._bpe = HubBpe(tokenizer)
        self._image_token = image_token
        image = next((token for token, number in self._special.items() if number == image_token), "")
        self._picture = f"<|begin_of_image|>{image}<|end_of_image|>"
        self._template = ChatTemplate(folder)
        self._escape = SpecialTokenEscape.for_tokens(tuple(self._special), self._template.words)
        self._features = self._template.find_features(self._escape.escape, self._picture)
        self._answer_tags = self._special.keys() >= _ANSWER_TOKENS
        self.thinking = self._thinking_ability()
        self.abilities = self._abilities()
        self._check_example()

    def encode(
        self,
        messages: Sequence[Message],
        limit: int,
        tools: ToolUse | None = None,
        think: bool | None = None,
        param: str = "messages",
        continue_last: bool = False,
    ) -> NDArray[np.int32]:
        """Token ids (tokens,) of the conversation and the beginning of the answer.

        `think` sets the template's switch, where it has one; None leaves its default. `param` is the
        request's field of the conversation. With `continue_last` the answer begins with the text of the last
        message, which is the assistant's. Raises InvalidRequest for a conversation that the template
        refuses, and ContextTooLong for a text that cannot fit `limit` tokens, before time is spent on it.
        """
        normalized = normalize_messages(messages, self._answer_tags)
        check_length(normalized, tools, self._bpe.longest_token, limit, param)
        for message in normalized:
            check_sample(self._bpe, replace_surrogates(text_of(message)), limit, param)
        switch = think if self.thinking.switch else None
        if switch is False:
            normalized = remove_nothink(normalized)
        before = normalized[:-1] if continue_last else normalized
        rendered = self._render(before, tools, switch, param)
        if continue_last:
            rendered += self._answer_start + self._escape.escape(text_of(normalized[-1]))
        token_ids = self._encode_rendered(rendered, limit, param)
        pictures = sum(isinstance(part, ImagePart) for message in messages for part in message.parts)
        if int((token_ids == self._image_token).sum()) != pictures:
            raise ServiceError("The model's chat template does not write one placeholder for each picture.")
        return token_ids

    def encode_raw(
        self, prompt: str | tuple[int, ...], limit: int, param: str, *, start: bool = True
    ) -> NDArray[np.int32]:
        """Token ids (tokens,) of a text without template or special tokens, except those at its `start`.

        Raises what raw_prompt.py's `encode_raw` does.
        """
        begin = [self._special[token] for token in _PROMPT_START if start and token in self._special]
        return np.asarray(encode_raw(prompt, begin, self._bpe, self._special, limit, param), np.int32)

    def _render(self, messages: Sequence[Message], tools: ToolUse | None, switch: bool | None, param: str) -> str:
        definitions = [self._escape.escape(tool.definition) for tool in tools.tools] if tools else None
        conversation = [self._template_message(message) for message in messages]
        rendered = self._template.render(conversation, definitions, switch, param)
        if not holds_in_order(rendered, [text for message in conversation for text in _texts(message["content"])]):
            raise ServiceError("The model's chat template loses or reorders the texts of a conversation.")
        return rendered

    def _template_message(self, message: Message) -> dict[str, Any]:
        """The message as the JSON object that chat templates take, escaped."""
        escape = self._escape.escape
        made: dict[str, Any] = {"role": message.role, "content": self._template_content(message)}
        if message.role == "assistant":
            made["reasoning_content"] = escape(message.reasoning)
        if message.role == "tool":
            made["tool_call_id"] = escape(message.tool_call_id)
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": escape(call.id),
                    "type": "function",
                    "function": {"name": escape(call.name), "arguments": escape(call.arguments)},
                }
                for call in message.tool_calls
            ]
        return made

    def _template_content(self, message: Message) -> str | list[dict[str, Any]]:
        texts = [self._escape.escape(part.text) if isinstance(part, TextPart) else None for part in message.parts]
        if message.role == "tool" and not self._features.result_parts:
            return "".join(self._picture if text is None else text for text in texts)
        if None not in texts:
            return "".join(filter(None, texts))
        return [{"type": "image"} if text is None else {"type": "text", "text": text} for text in texts]

    def _encode_rendered(self, rendered: str, limit: int, param: str) -> NDArray[np.int32]:
        pieces = self._split.split(rendered)  # text, special, text, special, ..., text
        texts = [self._escape.unescape(piece) for piece in pieces[0::2]]
        specials = [self._special[piece] for piece in pieces[1::2]]
        token_ids: list[int] = []
        for number, encoded in enumerate(encode_within(self._bpe, texts, limit, param)):
            token_ids += encoded
            token_ids += specials[number : number + 1]
        return np.asarray(token_ids, dtype=np.int32)

    @property
    def _answer_start(self) -> str:
        """What a model that always thinks writes before the text of its answer; the template writes it for others."""
        return "<think></think><answer>" if self.thinking.always else ""

    def _thinking_ability(self) -> ThinkingAbility:
        budget = self._special.keys() >= _THINK_TOKENS
        if self._features.thinking_switch:
            return ThinkingAbility(switch=True, default=self._features.thinks_by_default, budget=budget)
        always = budget and self._answer_tags
        return ThinkingAbility(always=always, budget=always)

    def _abilities(self) -> frozenset[str]:
        known = self._special.keys()
        found = {
            "thinking": self.thinking.possible,
            "thinking_switch": self.thinking.switch,
            "thinking_budget": self.thinking.budget,
            "tools": self._features.tools and known >= _TOOL_TOKENS,
            "boxes": "<|begin_of_box|>" in known,
        }
        found["tool_images"] = found["tools"] and (
            self._features.result_parts or not self._split.sub("", self._picture)
        )
        return frozenset(name for name, can in found.items() if can)

    def _check_example(self) -> None:
        """Refuse at the start a tokenizer or template that would fail in every request."""
        for token, number in self._special.items():
            if number in self._bpe.encode(token):
                raise ServiceError(f"The tokenizer makes the special token {token!r} from plain text.")
        tool_example = _TOOL_EXAMPLE if "tool_images" in self.abilities else ()
        self.encode([*_EXAMPLE, *tool_example], limit=1_000_000)


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
