import json
import time
from functools import cache
from pathlib import Path

import pytest
import tiktoken

from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.preprocess import bpe
from serve_app.preprocess.bpe import Bpe, HubBpe, TiktokenBpe, encode_within
from tests.preprocess.vocabulary import (
    PATTERN,
    SPECIALS_9B,
    as_tokenizer_json,
    random_texts,
    slowly,
    trained,
    write_tokenizer_model,
)


@pytest.fixture
def tiktoken_bpe(tmp_path: Path) -> TiktokenBpe:
    write_tokenizer_model(tmp_path / "tokenizer.model", trained())
    return TiktokenBpe(tmp_path / "tokenizer.model")


@cache
def hub_bpe() -> HubBpe:
    return HubBpe(json.loads(as_tokenizer_json(trained()).to_str()))


@pytest.fixture(params=["tokenizer.json", "tokenizer.model"])
def either(request: pytest.FixtureRequest, tiktoken_bpe: TiktokenBpe) -> Bpe:
    return tiktoken_bpe if request.param == "tokenizer.model" else hub_bpe()


def text_of(token_ids: list[int]) -> str:
    tokens = {rank: token for token, rank in trained().items()}
    return b"".join(tokens[token_id] for token_id in token_ids).decode()


def test_the_pattern_is_the_checkpoints() -> None:
    assert bpe.PATTERN == PATTERN


def test_5000_texts_are_encoded_as_the_pattern_and_the_ranks_say(either: Bpe) -> None:
    for text in random_texts(5000):
        assert either.encode(text) == slowly(text, trained()), text


def test_a_tokenizer_model_is_encoded_as_the_original_tokenizer_does(tiktoken_bpe: TiktokenBpe) -> None:
    original = tiktoken.Encoding("original", pat_str=PATTERN, mergeable_ranks=trained(), special_tokens={})
    for text in random_texts(1000, seed=1):
        assert tiktoken_bpe.encode(text) == original.encode(text, disallowed_special=())


@pytest.mark.parametrize("token", [*SPECIALS_9B, "<|image|>", "<think>", "<tool_call>"])
def test_a_special_tokens_name_is_text(either: Bpe, token: str) -> None:
    assert text_of(either.encode(token)) == token


@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "^", "的", "1", "\u0301", "\u3000", " \t", " \n", "ab", "\t\n \r"], ids=repr
)
def test_long_runs_of_one_kind_are_encoded_whole_and_soon(either: Bpe, unit: str) -> None:
    length = 1_100_000 if isinstance(either, TiktokenBpe) else 150_000  # where tiktoken's own pattern panics
    text = "x" + unit * (length // len(unit)) + "x"
    began = time.monotonic()
    token_ids = either.encode(text)
    assert time.monotonic() - began < 30
    assert text_of(token_ids) == text


def test_long_white_space_is_cut_only_where_the_pattern_would_fail(tiktoken_bpe: TiktokenBpe) -> None:
    text = "a" + " " * 400_000 + "b" + "\n " * 200_000 + "c" + "word " * 40_000
    original = tiktoken.Encoding("original", pat_str=PATTERN, mergeable_ranks=trained(), special_tokens={})
    assert len(text) > 500_000
    assert tiktoken_bpe.encode(text) == original.encode_ordinary(text)


def test_a_text_that_must_be_too_long_is_refused_unread(either: Bpe) -> None:
    began = time.monotonic()
    with pytest.raises(ContextTooLong, match="maximum context length is 8192 tokens") as refused:
        encode_within(either, ["x" * 50_000_000], 8192, "prompt")
    assert time.monotonic() - began < 1
    assert refused.value.param == "prompt"


def test_of_a_text_far_too_long_only_a_sample_is_read(tmp_path: Path) -> None:
    ranks = {**trained(), b" " * 128: 9999}  # as long as the real vocabulary's longest
    write_tokenizer_model(tmp_path / "tokenizer.model", ranks)
    vocabulary = TiktokenBpe(tmp_path / "tokenizer.model")
    began = time.monotonic()
    with pytest.raises(ContextTooLong, match="resulted in at least"):
        encode_within(vocabulary, ["q?" * 8_000_000], 131_072, "messages")
    assert time.monotonic() - began < 10
    with pytest.raises(ContextTooLong, match="resulted in at least"):
        encode_within(vocabulary, ["q?" * 3] * 90, 100, "messages")


def test_a_prompt_that_just_does_not_fit_is_counted(either: Bpe) -> None:
    assert sum(map(len, encode_within(either, ["q?" * 70, "q?" * 20], 100, "messages"))) == 180


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no tokenizer.model"),
        (b"YQ== 0\nYg==\n", "must have one base64 token and its rank"),
        (b"YQ== zero\n", "must have one base64 token and its rank"),
        (b"Y*Q 0\n", "must have one base64 token and its rank"),
        (b"YQ== 0\nYg== 1\n", "no token for 254 of the 256 bytes"),
    ],
)
def test_a_broken_tokenizer_model_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InvalidRequest, match=reason) as refused:
        TiktokenBpe(tmp_path / "tokenizer.model")
    assert refused.value.param == "model.path"
