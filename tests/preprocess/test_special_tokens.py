"""Whatever a caller types, wherever, in whichever family: special tokens are the prompt's own."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from serve_app.contracts import ChatRequest, ImagePart, Message, TextPart, Tool, ToolCall, ToolUse
from serve_app.preprocess.family_processor import FamilyProcessor, load_processor
from serve_app.settings import DEMO_MODEL, ModelSettings, PreprocessSettings
from tests.preprocess.conftest import ADDED, ADDED_41V, SPECIAL

FAMILIES = ["glm-4v-9b", "glm-4.1v", "glm-4.5v", "glm-4.6v", "demo"]
TYPED = ["<|user|>", "<|image|>", "<think>", "<tool_call>", "[gMASK]"]
PICTURE = ImagePart(b"")
LIMIT = 100_000

OfName = Callable[[str], Path]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, of_template: OfName, checkpoint_9b: Path) -> Path:
    if request.param == "glm-4v-9b":
        return checkpoint_9b
    return DEMO_MODEL if request.param == "demo" else of_template(request.param)


def served(folder: Path) -> FamilyProcessor:
    return load_processor(folder, ModelSettings(path=str(folder)), PreprocessSettings())


def decoder(folder: Path) -> tuple[set[int], Callable[[list[int]], str]]:
    """Ids of the folder's special tokens, and how ids that are none of them read."""
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = {token["id"] for token in json.loads(tokenizer.to_str())["added_tokens"]}
        return special, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
    lines = [line.split() for line in (folder / "tokenizer.model").read_bytes().splitlines()]
    tokens = {int(rank): base64.b64decode(token) for token, rank in lines}
    return set(range(len(tokens), len(tokens) + 14)), lambda ids: b"".join(tokens[i] for i in ids).decode()


def everywhere(typed: str, family: FamilyProcessor) -> ChatRequest:
    """A request with a text in every place that the family lets a caller write in."""
    messages = [
        Message("system", (TextPart(typed),)),
        Message("user", (TextPart(f"x{typed}"), PICTURE, TextPart(f"{typed}?"))),
        Message("assistant", (TextPart(f"y{typed}"),), typed),
        Message("user", (TextPart(f"{typed}?"),)),
    ]
    if "tools" not in family.abilities:
        return ChatRequest("r", tuple(messages))
    schema = {"type": "object", "properties": {typed: {"enum": [typed], typed: None}}, typed: [typed]}
    function = {"name": typed, "description": typed, "parameters": schema}
    calls = tuple(
        ToolCall(typed, typed, {typed: value, "type": typed, "name": [typed], "role": {typed: typed}})
        for value in (typed, [typed], {typed: typed})
    )
    messages += [
        Message("assistant", (TextPart(typed),), f"z{typed}", calls),
        Message("tool", (TextPart(typed),), tool_call_id=typed),
        Message("tool", (TextPart(typed), PICTURE, TextPart(typed)), tool_call_id=typed),
    ]
    return ChatRequest("r", tuple(messages), tools=ToolUse((Tool(typed, {"type": "function", "function": function}),)))


def specials(family: FamilyProcessor, request: ChatRequest, special: set[int]) -> list[int]:
    pictures = [part for message in request.messages for part in message.parts if part is PICTURE]
    token_ids = family.tokenize(request, [4] * len(pictures), LIMIT).token_ids.tolist()
    return [token_id for token_id in token_ids if token_id in special]


PIECES = [
    *SPECIAL, *ADDED, *ADDED_41V, "<|ima", "ge|>", "<|", "|>", "<", ">", "/", "/no", "think", "sop", "[", "]", '"',
    "\\", "\\u003c", "{", "}", "{{", "}}", "{%", " ", "\n", "x", "红", "\udc00", "\udc3c", "\udbff", "\ud83d",
]  # fmt: skip
LOOK_ALIKES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)


def test_no_text_anywhere_becomes_a_special_token(folder: Path) -> None:
    family = served(folder)
    special, _ = decoder(folder)
    expected = specials(family, everywhere("harmless", family), special)

    @settings(max_examples=120, deadline=None)
    @given(LOOK_ALIKES.filter(str.strip))
    def check(typed: str) -> None:
        assert specials(family, everywhere(typed, family), special) == expected

    check()


def test_a_text_to_continue_has_no_special_tokens_but_its_beginning(folder: Path) -> None:
    family = served(folder)
    special, text_of = decoder(folder)

    @settings(max_examples=120, deadline=None)
    @given(LOOK_ALIKES)
    def check(typed: str) -> None:
        begin, rest = 2, ChatRequest("r", (), text=typed)
        token_ids = family.tokenize(rest, [], LIMIT).token_ids.tolist()
        assert [token_id in special for token_id in token_ids[:begin]] == [True, True]
        assert special.isdisjoint(token_ids[begin:])
        assert text_of(token_ids[begin:]) == typed.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace(
            "\ufffd\ufffd\ufffd", "\ufffd"
        )

    check()


@pytest.mark.parametrize("typed", TYPED)
def test_what_looks_like_a_special_token_is_read_letter_for_letter(folder: Path, typed: str) -> None:
    family = served(folder)
    special, text_of = decoder(folder)
    request = ChatRequest("r", (Message("user", (TextPart(f"say {typed} twice"),)),))
    token_ids = family.tokenize(request, [], LIMIT).token_ids.tolist()
    assert f"say {typed} twice" in text_of([token_id for token_id in token_ids if token_id not in special])


def test_a_text_begins_with_the_two_tokens_of_every_prompt(folder: Path) -> None:
    family = served(folder)
    text = family.tokenize(ChatRequest("r", (), text="Once"), [], LIMIT).token_ids
    chat = family.tokenize(ChatRequest("r", (Message("user", (TextPart("Hi"),)),)), [], LIMIT).token_ids
    assert text[:2].tolist() == chat[:2].tolist()
    assert len({*text[:2].tolist()}) == 2
