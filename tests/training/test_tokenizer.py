"""The demo model's tokenizer and chat template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serve_app.settings import DEMO_MODEL
from training.tokenizer import SPECIALS
from training.vocabulary import picture_characters

TOKENIZER = AutoTokenizer.from_pretrained(DEMO_MODEL)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("token", SPECIALS)
def test_a_special_token_is_one_id(token: str) -> None:
    assert TOKENIZER.encode(token, add_special_tokens=False) == [TOKENIZER.convert_tokens_to_ids(token)]


def test_each_character_of_the_drawings_is_one_id() -> None:
    assert [c for c in picture_characters() if len(TOKENIZER.encode(c, add_special_tokens=False)) > 1] == []


def test_numbers_are_read_digit_by_digit() -> None:
    assert len(TOKENIZER.encode("SF1234567890", add_special_tokens=False)) == 12


def test_the_template_shows_the_picture_before_the_question(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Q"}]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": parts}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "[gMASK]<sop><|system|>\nS<|user|>\n<|begin_of_image|><|image|><|end_of_image|>Q<|assistant|>\n"
    )


def test_the_template_carries_earlier_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": [{"type": "text", "text": "Q2"}]},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "[gMASK]<sop><|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>\n"
    )
