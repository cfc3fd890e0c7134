"""Token ids to text that can be shown: whole characters, no special tokens, stop strings cut.

All GLM tokenizers are byte-level, so every id stands for a fixed run of bytes. Ids are turned into
bytes, bytes into characters by an incremental UTF-8 decoder; text is held back while it may still
become a stop string. What is streamed therefore always adds up to the whole answer.
"""

from __future__ import annotations

import codecs
from typing import Any


class Vocabulary:
    """The bytes behind each token id; special tokens have none."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self.token_bytes = token_bytes

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
            if index < size and not token.special:
                table[index] = token.content.encode()
        return cls(table)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins for bytes of byte-level BPE (GPT-2, `bytes_to_unicode`), reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


class TextStream:
    """The growing text of one answer."""

    def __init__(self, vocabulary: Vocabulary, stop: tuple[str, ...] = ()) -> None:
        self._vocabulary = vocabulary
        self._stop = stop
        # Bytes that never become a character are dropped: a reader is not helped by U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Text that became certain with this token; sets `stopped` when a stop string is complete."""
        self._held += self._decoder.decode(self._vocabulary.token_bytes[token_id])
        return self._release()

    def flush(self) -> str:
        """What is still held back when the answer ends for another reason."""
        held, self._held = self._held, ""
        return held

    def _release(self) -> str:
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
