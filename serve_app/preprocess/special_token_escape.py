"""Escape the characters of special tokens in callers' texts, so that no text becomes a special token.

Each character that occurs in a special token is replaced by a lone surrogate, which valid text cannot
contain, before the chat template runs. A special token in the rendered string is therefore always the
template's own. White space is not escaped: a template that strips texts still does.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.errors import ServiceError

_FIRST = 0xDC00  # first low surrogate; there are 1,024, and the printable ASCII characters are 94
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SpecialTokenEscape:
    """The replacement table for one checkpoint's special tokens and template."""

    to_surrogates: dict[int, int]
    from_surrogates: dict[int, int]
    plain_keys: frozenset[str]  # keys of JSON objects that are not escaped, because the template looks them up

    @classmethod
    def for_tokens(cls, specials: Sequence[str], plain_keys: Collection[str] = ()) -> "SpecialTokenEscape":
        characters = sorted({ord(c) for token in specials for c in token if not c.isspace()})
        if len(characters) > 1024:
            raise ServiceError("The tokenizer's special tokens use more than 1,024 different characters.")
        pairs = [(character, _FIRST + index) for index, character in enumerate(characters)]
        return cls(dict(pairs), {surrogate: character for character, surrogate in pairs}, frozenset(plain_keys))

    def escape(self, data: Any) -> Any:
        """A copy of JSON data with all its strings and keys escaped, except `plain_keys`."""
        match data:
            case str():
                return replace_surrogates(data).translate(self.to_surrogates)
            case dict():
                return {key if key in self.plain_keys else self.escape(key): self.escape(data[key]) for key in data}
            case list():
                return [self.escape(value) for value in data]
            case _:
                return data

    def unescape(self, text: str) -> str:
        return text.translate(self.from_surrogates)


def replace_surrogates(text: str) -> str:
    """Text without lone surrogates, which no encoding can express; each becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
