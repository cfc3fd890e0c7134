"""Detokenizer: token ids to bytes, bytes to characters, and stop strings.

All GLM tokenizers are byte-level: every id stands for a fixed sequence of bytes. An incremental UTF-8
decoder turns bytes into characters; text is buffered while it may still become a stop string.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from serve_app.engine.output.control_tokens import ControlTokens


class Vocabulary:
    """The bytes of each token id, the ids of the added tokens by content, and the control tokens among them.

    Special tokens and control tokens have no bytes, so they never become text.
    """

    def __init__(self, token_bytes: list[bytes], names: Mapping[str, int] | None = None) -> None:
        self.token_bytes = token_bytes
        self.names: Mapping[str, int] = names or {}
        self.control_tokens = ControlTokens.of(self.names)

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Vocabulary:
        """The vocabulary of a byte-level `transformers` tokenizer; ids without an entry (padding) have no bytes."""
        alphabet = _byte_alphabet()
        added = tokenizer.added_tokens_decoder
        table = [b""] * size
        for token, index in tokenizer.get_vocab().items():
            if index >= size or index in added:
                continue
            table[index] = bytes(alphabet[character] for character in token)
        for index, token in added.items():
            if index < size and not token.special and not _is_control_token(token.content):
                table[index] = token.content.encode()
        return cls(table, {token.content: index for index, token in added.items() if index < size})


def _is_control_token(content: str) -> bool:
    """Whether an added token controls the model (GLM's `<think>`, `<tool_call>`, `/nothink`) and is not a word."""
    return content.startswith(("<", "[", "/"))


def _byte_alphabet() -> dict[str, int]:
    """Byte of each printable character of byte-level BPE: GPT-2's `bytes_to_unicode`, reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


class Utf8Decoder:
    """Incremental UTF-8 decoder that drops invalid bytes."""

    def __init__(self) -> None:
        # Invalid bytes are dropped, because U+FFFD does not help a reader.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def push(self, content: bytes) -> str:
        """Characters that are complete with these bytes."""
        return self._decoder.decode(content).replace("\ufffd", "")

    def reset(self) -> None:
        """Drop the bytes of an incomplete character."""
        self._decoder.reset()


class StopStrings:
    """Cuts text at the first stop string; buffers text that may still become one."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._buffer = ""
        self.found: str | None = None  # the one that ended the text

    def push(self, text: str, active: bool = True) -> str:
        """Text that cannot become part of a stop string; sets `found` when one is complete.

        While not `active`, text is returned unchanged, and no stop string begins in it.
        """
        if not active or not self._stop:
            return text
        self._buffer += text
        found = [(at, stop) for stop in self._stop if (at := self._buffer.find(stop)) >= 0]
        if found:
            first, self.found = min(found)
            text, self._buffer = self._buffer[:first], ""
            return text
        keep = max(overlap(self._buffer, stop) for stop in self._stop)
        cut = len(self._buffer) - keep
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return text

    def occurs_in(self, text: str) -> bool:
        """Whether a text has a stop string."""
        return any(stop in text for stop in self._stop)

    def flush(self) -> str:
        """The buffered text, when the answer ends for another reason."""
        text, self._buffer = self._buffer, ""
        return text


def overlap(text: str, pattern: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `pattern`."""
    for length in range(min(len(text), len(pattern) - 1), 0, -1):
        if text.endswith(pattern[:length]):
            return length
    return 0
