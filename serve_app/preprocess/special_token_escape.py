"""A reversible swap of characters: nothing that a caller writes can become a special token.

Each character that occurs in a special token is swapped for a lone surrogate, which valid text cannot
contain, before the chat template runs. In the rendered string a special token is therefore always the
template's own. White space is not veiled: a template that strips text still does.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.errors import ServiceError

_FIRST = 0xDC00  # first low surrogate; 1,024 follow, the printable ASCII has 94
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Veil:
    """The swap for one checkpoint's special tokens and template."""

    put_on: dict[int, int]
    lift: dict[int, int]
    open_keys: frozenset[str]  # of JSON objects: left as they are, for the template looks them up

    @classmethod
    def over(cls, specials: Sequence[str], open_keys: Collection[str] = ()) -> "Veil":
        characters = sorted({ord(c) for token in specials for c in token if not c.isspace()})
        if len(characters) > 1024:
            raise ServiceError("the tokenizer's special tokens use more than 1,024 different characters")
        pairs = [(character, _FIRST + index) for index, character in enumerate(characters)]
        return cls(dict(pairs), {veiled: character for character, veiled in pairs}, frozenset(open_keys))

    def cover(self, data: Any) -> Any:
        """A copy of JSON data with each of its strings veiled, keys too unless they are open."""
        match data:
            case str():
                return valid(data).translate(self.put_on)
            case dict():
                return {self._key(key): self.cover(value) for key, value in data.items()}
            case list():
                return [self.cover(value) for value in data]
            case _:
                return data

    def uncover(self, text: str) -> str:
        return text.translate(self.lift)

    def _key(self, key: str) -> str:
        return key if key in self.open_keys else valid(key).translate(self.put_on)


def valid(text: str) -> str:
    """Text without lone surrogates, which no encoding can express; each becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
