"""Ids to text: whole characters, hidden special tokens, stop strings over token borders."""

from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given
from transformers import AutoTokenizer

from serve_app.engine.output.detokenizer import StopStrings, Utf8Decoder, Vocabulary
from tests.engine.conftest import write_tiny_model


def stream(content: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    characters, strings = Utf8Decoder(), StopStrings(stop)
    pieces = []
    for byte in content:
        pieces.append(strings.push(characters.push(bytes([byte]))))
        if strings.found:
            return pieces, True
    return [*pieces, strings.flush()], False


@given(st.text(), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_the_stream_adds_up_to_the_text_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    pieces, stopped = stream(text.encode(), tuple(stops))
    text = text.replace("\ufffd", "")
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert stopped == bool(ends)
    if not ends:
        assert "".join(pieces) == text
    else:
        assert text.startswith("".join(pieces))
        assert not any(stop in "".join(pieces) for stop in stops)


@given(st.binary())
def test_no_bytes_whatever_give_a_replacement_character(content: bytes) -> None:
    pieces, _ = stream(content)
    assert "�" not in "".join(pieces)


def test_a_replacement_character_that_the_model_itself_draws_is_not_shown() -> None:
    assert "".join(stream("a�b".encode())[0]) == "ab"


def test_a_chinese_character_is_shown_only_when_it_is_whole() -> None:
    assert stream("灯".encode())[0] == ["", "", "灯", ""]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    assert "".join(stream("红灯".encode()[:-1])[0]) == "红"


def test_a_character_that_was_given_up_does_not_spoil_the_next() -> None:
    characters = Utf8Decoder()
    characters.push("灯".encode()[:2])
    characters.reset()
    assert characters.push("灯".encode()) == "灯"


def test_text_that_may_become_a_stop_string_is_held_back_and_released() -> None:
    assert stream(b"a\n\nb", ("\n\n\n",))[0] == ["a", "", "", "\n\nb", ""]


def test_of_several_stop_strings_the_earliest_in_the_text_cuts() -> None:
    assert "".join(stream(b"one two", ("two", "ne"))[0]) == "o"


def test_text_that_is_not_active_passes_whatever_it_holds() -> None:
    strings = StopStrings(("stop",))
    assert strings.push("a stop, ", active=False) == "a stop, "
    assert strings.push("a stop") == "a "
    assert strings.found


def test_the_vocabulary_of_a_checkpoint_gives_its_tokenizers_own_text(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    vocabulary = Vocabulary.of(tokenizer, 320)
    text = "Ünïcode 红灯 🚀\n\t code{}"
    token_ids = tokenizer.encode(text)
    assert b"".join(vocabulary.token_bytes[index] for index in token_ids).decode() == text
    assert vocabulary.token_bytes[tokenizer.convert_tokens_to_ids("<|image|>")] == b""
    assert vocabulary.token_bytes[319] == b""
    assert vocabulary.names["<|image|>"] == tokenizer.convert_tokens_to_ids("<|image|>")


def test_control_tokens_that_are_no_special_tokens_have_no_text_but_added_words_do(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_tiny_model(tmp_path))
    tokenizer.add_tokens(["</think>", "<tool_call>", "/nothink", "灯塔"])  # special=False, as in GLM's checkpoints
    vocabulary = Vocabulary.of(tokenizer, 320)
    for mark in ("</think>", "<tool_call>", "/nothink"):
        assert vocabulary.token_bytes[vocabulary.names[mark]] == b""
    assert vocabulary.token_bytes[vocabulary.names["灯塔"]] == "灯塔".encode()
