"""Token ids to text that can be shown: the bytes behind ids, whole characters, stop strings.

All GLM tokenizers are byte-level, so every id stands for a fixed run of bytes. Ids are turned into
bytes, bytes into characters by an incremental UTF-8 decoder; text is held back while it may still
become a stop string. What is streamed therefore always adds up to the whole answer.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any


class Vocabulary:
    """The bytes behind each token id, and the ids of the added tokens by content.

    Special tokens and marks have no bytes: whatever a model draws, they never become text.
    """

    def __init__(self, token_bytes: list[bytes], names: Mapping[str, int] | None = None) -> None:
        self.token_bytes = token_bytes
        self.names: Mapping[str, int] = names or {}

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Vocabulary:
        """Read a byte-level `transformers` tokenizer; ids without an entry (padding rows) are empty."""
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
    """Whether an added token structures the answer: GLM's `<think>`, `<tool_call>`, `/nothink` are not special.

    A word that somebody added to the vocabulary is not.
    """
    return content.startswith(("<", "[", "/"))


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins for bytes of byte-level BPE (GPT-2, `bytes_to_unicode`), reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


class Utf8Decoder:
    """Bytes in any portions to whole characters."""

    def __init__(self) -> None:
        # Bytes that never become a character are dropped: a reader is not helped by U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    def push(self, content: bytes) -> str:
        """Characters that became whole with these bytes."""
        return self._decoder.decode(content).replace("\ufffd", "")

    def reset(self) -> None:
        """Forget the bytes of a character that will not be finished."""
        self._decoder.reset()


class StopStrings:
    """Text up to the first of the stop strings; held back while it may still become one."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._held = ""
        self.found = False

    def push(self, text: str, active: bool = True) -> str:
        """Text that became certain; sets `found` when a stop string is complete.

        While not `active`, text passes as it is, and no stop string can begin in it.
        """
        if not active or not self._stop:
            return text
        self._held += text
        places = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            text, self._held = self._held[: min(places)], ""
            return text
        keep = max(overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def flush(self) -> str:
        """What is still held back when the text ends for another reason."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, token: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `token`."""
    for length in range(min(len(text), len(token) - 1), 0, -1):
        if text.endswith(token[:length]):
            return length
    return 0
