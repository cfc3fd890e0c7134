"""A small byte-level BPE in tiktoken's format, trained here, and a plain slow reading of it."""

import base64
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from unicodedata import category

import regex
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

# GLM-4's: line breaks merge with what stands before them
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GLM-4V-9B's added tokens, in their order
SPECIALS_9B = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip
CORPUS = """
What is in the picture?\n\n  What does the red light mean? I'll check; it's 12345 of 67890, isn't it?
这张图里的设备红灯代表什么？请看图回答，运单号是多少。红灯表示故障，绿灯表示正常。
def answer(question: str) -> str:\n    return f"{question!r}: 42"  # TODO\n\n\n        if x <= 3 and y != 'z':\n\t\tpass
<p class="note">100% of 3.50 €</p> {"type": "function", "name": ["a", null, true]} 😀😀 👍🏽 <|user|> [gMASK] </think>
""" * 3  # fmt: skip


@cache
def trained() -> dict[bytes, int]:
    """Ranks of 256 bytes and of the most frequent pairs of the corpus, up to its whole words."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    words = [[bytes([byte]) for byte in piece.encode()] for piece in regex.findall(PATTERN, CORPUS)]
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks.setdefault(left + right, len(ranks))
        words = [_merged(word, left, right) for word in words]
    return ranks


def slowly(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Byte pair encoding as it is defined: in each piece of the pattern, again and again the lowest pair."""
    return [ranks[part] for piece in regex.findall(PATTERN, text) for part in _parts(piece.encode(), ranks)]


def write_tokenizer_model(path: Path, ranks: dict[bytes, int]) -> None:
    lines = [base64.b64encode(token) + b" " + str(rank).encode() for token, rank in ranks.items()]
    path.write_bytes(b"\n".join(lines) + b"\n")


def as_tokenizer_json(ranks: dict[bytes, int]) -> Tokenizer:
    """The same vocabulary for the `tokenizers` library, as checkpoints are converted."""
    spelled = dict(zip(range(256), _alphabet(), strict=True))
    vocabulary = {"".join(spelled[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            parts = _parts(token, {known: number for known, number in ranks.items() if number < rank})
            merges.append(tuple("".join(spelled[byte] for byte in part) for part in parts))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    return core


def random_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Chinese, emoji, code, numbers, white space of all kinds, and look-alikes of special tokens, mixed."""
    random = Random(seed)
    pieces = [
        *SPECIALS_9B, "<|image|>", "<think>", "</think>", "<tool_call>", "/nothink", "<|", "|>", "<|us", "er|>",
        "设备红灯代表什么", "，", "。", "的", "龘", "𠮷", "ｆｕｌｌ", "ñ", "e\u0301", "Ω", "ß", "İ", "ı", "'S", "'ll",
        "'LL", "’s", "😀", "👨‍👩‍👧", "👍🏽", "🇨🇳", "\u200b", "\ufeff", "\x00", "\x7f", "\x85", "\xa0", "\u3000",
        "\u2028",
        " ", "  ", "   ", "\n", "\r\n", "\n\n\n", "\t", " \n ", "        ", "\v", "\f", "\x1c",
        "def f(x):\n    return x", "!=", "->", "{}", "\\n", '"a": [1, 2]', "</p>", "# ", "====", "...", "$", "+-*/",
        "0", "12", "123", "1234567", "٣", "Ⅷ", "½", "a", "the", " light", "What", "mean", "MEAN", "_x_", "€",
    ]  # fmt: skip
    assigned = [chr(code) for code in range(0x20000) if category(chr(code)) not in ("Cn", "Co", "Cs")]
    for _ in range(count):
        drawn = [*random.choices(pieces, k=random.randint(0, 12)), *random.choices(assigned, k=random.randint(0, 4))]
        random.shuffle(drawn)
        yield "".join(drawn)


def _alphabet() -> list[str]:
    """How byte-level BPE spells each byte (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    word = [bytes([byte]) for byte in token]
    while True:
        known = [pair for pair in pairwise(word) if pair[0] + pair[1] in ranks]
        if not known:
            return word
        word = _merged(word, *min(known, key=lambda pair: ranks[pair[0] + pair[1]]))


def _merged(word: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    merged: list[bytes] = []
    for part in word:
        if merged and merged[-1] == left and part == right:
            merged[-1] = left + right
        else:
            merged.append(part)
    return merged
