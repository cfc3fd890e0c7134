"""Plain text -> token ids by byte-level BPE, with a vocabulary that has no special tokens.

Checkpoints have one of two files: `tokenizers` reads a tokenizer.json, `tiktoken` a tokenizer.model.
Neither hangs on malicious text: their merges take n log n steps. tiktoken's pattern fails on a million
white-space characters in a row, so longer runs are cut before.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import tiktoken
from tokenizers import Tokenizer

from serve_app.errors import InvalidRequest
from serve_app.preprocess.max_tokens import context_too_long

# GLM-4's, as in tokenization_chatglm.py of THUDM/glm-4v-9b
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WHITE = re.compile(r"\s+")
_LONGEST_WHITE = 500_000  # in a row; tiktoken 0.14 keeps a stack entry for each and panics above 999,900
_SAMPLES = (1, 4, 16)  # characters a token: few in unusual scripts, 16 only in the most repetitive text


class Bpe(Protocol):
    """A vocabulary of byte strings and the order in which they are merged."""

    longest_token: int  # bytes
    largest_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text without lone surrogates; names of special tokens in it are text."""
        ...


class HubBpe:
    """The vocabulary of a tokenizer.json, given as its JSON, with its added tokens taken out."""

    def __init__(self, tokenizer: dict[str, Any]) -> None:
        bare = {**tokenizer, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._tokenizer = Tokenizer.from_str(json.dumps(bare))
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        self.longest_token = max(map(len, vocabulary))
        self.largest_id = max(vocabulary.values())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class TiktokenBpe:
    """The vocabulary of a tokenizer.model: lines of a base64 token and its rank, which is its id."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidRequest if the file is missing, not of this format, or lacks one of the 256 bytes."""
        self.ranks = _ranks(path)
        missing = [byte for byte in range(256) if bytes([byte]) not in self.ranks]
        if missing:
            raise InvalidRequest(f"{path} has no token for {len(missing)} of the 256 bytes.", param="model.path")
        self.longest_token = max(map(len, self.ranks))
        self.largest_id = max(self.ranks.values())
        self._encoding = tiktoken.Encoding("glm-4", pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        if len(text) <= _LONGEST_WHITE:
            return self._encoding.encode_ordinary(text)
        return [token_id for piece in _cut(text) for token_id in self._encoding.encode_ordinary(piece)]


def encode_within(bpe: Bpe, texts: Sequence[str], limit: int, param: str) -> list[list[int]]:
    """Ids of each text; raises ContextTooLong as soon as they are clearly far more than `limit`."""
    least = sum(-(-len(text.encode("utf-8")) // bpe.longest_token) for text in texts)
    if least > limit:
        raise context_too_long(limit, least, param, at_least=True)
    encoded: list[list[int]] = []
    count = 0
    for text in texts:
        check_sample(bpe, text, limit, param)
        encoded.append(bpe.encode(text))
        count += len(encoded[-1])
        if count > 2 * limit:
            raise context_too_long(limit, 2 * limit, param, at_least=True)
    return encoded


def check_sample(bpe: Bpe, text: str, limit: int, param: str) -> None:
    """Raises ContextTooLong if the beginning of a very long text is more than twice `limit` tokens already.

    A token may be 128 spaces, so the number of bytes alone is a weak bound: this saves the tokenization of
    megabytes of any other text.
    """
    if len(text) > _SAMPLES[-1] * limit and any(len(bpe.encode(text[: s * limit])) > 2 * limit for s in _SAMPLES):
        raise context_too_long(limit, 2 * limit, param, at_least=True)


def _cut(text: str) -> Iterator[str]:
    """The text in pieces whose runs of white space are short enough for the pattern."""
    start = 0
    for run in _WHITE.finditer(text):
        for cut in range(run.start() + _LONGEST_WHITE, run.end(), _LONGEST_WHITE):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except FileNotFoundError as error:
        raise InvalidRequest(f"The model folder {path.parent} has no {path.name}.", param="model.path") from error
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(
            f"{path} must have one base64 token and its rank in each line.", param="model.path"
        ) from error
