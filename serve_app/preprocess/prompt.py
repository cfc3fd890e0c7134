"""Messages -> token ids, by the checkpoint's own chat template and tokenizer.

User text never becomes a special token. Each of its characters that occurs in a special token is *veiled*
before the template runs: swapped for a lone surrogate, which valid text cannot contain. In the rendered
string a special token is therefore always the template's own. The string is cut at those, the veil is
lifted, and the pieces between are encoded by a copy of the tokenizer that knows no special tokens.

This is how the tokenizer itself proceeds (cut at special tokens, then encode what is between), so for
texts without look-alikes the ids equal `apply_chat_template`'s, with the same merges where template and
text meet. White space is not veiled: a template that strips text still does.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from serve_app.contracts import ImagePart, Message, TextPart
from serve_app.errors import ContextTooLong, InvalidRequest, ServiceError

_VEIL = 0xDC00  # first low surrogate; 1,024 follow, the printable ASCII has 94
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PROBE = ("Be brief.", "What is shown?", "A cat.", "And here?")


@dataclass(frozen=True, slots=True)
class Veil:
    """A reversible swap of every character that special tokens are made of."""

    put_on: dict[int, int]
    lift: dict[int, int]

    @classmethod
    def over(cls, specials: Sequence[str]) -> "Veil":
        characters = sorted({ord(c) for token in specials for c in token if not c.isspace()})
        if len(characters) > 1024:
            raise ServiceError("the tokenizer's special tokens use more than 1,024 different characters")
        pairs = [(character, _VEIL + index) for index, character in enumerate(characters)]
        return cls(dict(pairs), {veiled: character for character, veiled in pairs})


class ChatTokenizer:
    """Writes a conversation as token ids, one image placeholder a picture (not yet expanded)."""

    def __init__(self, folder: Path, image_token: int) -> None:
        """Load template and tokenizer; raises ServiceError if they do not keep texts and pictures whole."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(f"the model folder {folder} has no tokenizer.json", param="model.path")
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        config = _json(folder / "tokenizer_config.json")
        added: dict[str, int] = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        self._special = {token: number for token, number in added.items() if not token.isspace()}
        self._cut = re.compile("(" + "|".join(map(re.escape, sorted(self._special, key=len, reverse=True))) + ")")
        self._veil = Veil.over(tuple(self._special))
        self._plain = Tokenizer.from_str(
            json.dumps({**tokenizer, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None})
        )
        self._longest_token = max(map(len, self._plain.get_vocab(with_added_tokens=False)))  # bytes
        self._template = _template(folder, config)
        self._names = {key: _text(value) for key, value in config.items() if key.endswith("_token") and value}
        self._image_token = image_token
        self._probe()

    def encode(self, messages: Sequence[Message], limit: int) -> NDArray[np.int32]:
        """Token ids (tokens,) of the conversation and the head of the answer.

        Raises InvalidRequest for a conversation without a question, and ContextTooLong for a text
        that cannot fit `limit` tokens, before time is spent on it.
        """
        _check(messages)
        texts = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
        least = sum(len(text.encode("utf-8", "replace")) for text in texts) // self._longest_token
        if least > limit:
            raise ContextTooLong(
                f"the text is at least {least} tokens; the context is {limit} tokens", param="messages"
            )
        token_ids = self._ids(self._render(messages))
        pictures = sum(isinstance(part, ImagePart) for message in messages for part in message.parts)
        if int((token_ids == self._image_token).sum()) != pictures:
            raise ServiceError("the model's chat template does not write one placeholder for each picture")
        return token_ids

    def _render(self, messages: Sequence[Message]) -> str:
        conversation = [self._as_template_input(message) for message in messages]
        rendered = render_jinja_template(
            conversations=[conversation], chat_template=self._template, add_generation_prompt=True, **self._names
        )[0][0]
        cursor = 0
        for message in conversation:
            content = message["content"]
            for text in [content] if isinstance(content, str) else [p["text"] for p in content if "text" in p]:
                kept = text.strip()
                cursor = rendered.find(kept, cursor)
                if cursor < 0:
                    raise ServiceError("the model's chat template loses or reorders the texts of a conversation")
                cursor += len(kept)
        return str(rendered)

    def _as_template_input(self, message: Message) -> dict[str, Any]:
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        if message.role == "assistant":
            # templates cut earlier reasoning off by looking for its end mark, which the veil hides from them
            texts = [text.rsplit("</think>", 1)[-1].lstrip("\n") if "</think>" in text else text for text in texts]
        veiled = iter([_SURROGATE.sub("\ufffd", text).translate(self._veil.put_on) for text in texts])
        if len(message.parts) == len(texts) <= 1:
            return {"role": message.role, "content": next(veiled, "")}
        content = [
            {"type": "text", "text": next(veiled)} if isinstance(part, TextPart) else {"type": "image"}
            for part in message.parts
        ]
        return {"role": message.role, "content": content}

    def _ids(self, rendered: str) -> NDArray[np.int32]:
        pieces = self._cut.split(rendered)  # text, special, text, special, ..., text
        texts = [piece.translate(self._veil.lift) for piece in pieces[0::2]]
        specials = [self._special[piece] for piece in pieces[1::2]]
        token_ids: list[int] = []
        encoded = self._plain.encode_batch(texts, add_special_tokens=False)
        for number, encoding in enumerate(encoded):
            token_ids += encoding.ids
            token_ids += specials[number : number + 1]
        return np.asarray(token_ids, dtype=np.int32)

    def _probe(self) -> None:
        """Refuse at the start what would go wrong in every request."""
        for token, number in self._special.items():
            if number in self._plain.encode(token, add_special_tokens=False).ids:
                raise ServiceError(f"the tokenizer makes the special token {token!r} from plain text")
        system, question, answer, follow_up = (TextPart(text) for text in _PROBE)
        picture = ImagePart(b"")
        self.encode(
            (
                Message("system", (system,)),
                Message("user", (picture, question)),
                Message("assistant", (answer,)),
                Message("user", (follow_up, picture)),
            ),
            limit=1_000_000,
        )


def _check(messages: Sequence[Message]) -> None:
    if not any(message.role == "user" for message in messages):
        raise InvalidRequest("messages has no user message: there is no question", param="messages")
    for index, message in enumerate(messages):
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        pictures = [part for part in message.parts if isinstance(part, ImagePart)]
        if message.role == "user" and not any(text.strip() for text in texts) and (texts or not pictures):
            field = f"messages[{index}].content"
            raise InvalidRequest(f"{field} is empty: there is no question", param=field)
        if message.role != "user" and pictures:
            raise InvalidRequest(
                f"messages[{index}] has a picture; only user messages may have pictures", param=pictures[0].param
            )


def _template(folder: Path, config: dict[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = _json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if not isinstance(found, str):
        raise InvalidRequest(f"the model folder {folder} has no chat template", param="model.path")
    return found


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
