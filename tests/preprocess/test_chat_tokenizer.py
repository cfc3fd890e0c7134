from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from serve_app.contracts import ImagePart, Message, TextPart
from serve_app.errors import ContextTooLong, ServiceError
from serve_app.preprocess.chat_tokenizer import ChatTokenizer
from serve_app.preprocess.normalize_messages import text_of
from tests.preprocess.conftest import ADDED, GLM45V_TEMPLATE, SPECIAL, WriteCheckpoint

LIMIT = 8192
PICTURE = ImagePart(b"", "messages[0].content[0]")


def own(folder: Path) -> ChatTokenizer:
    return ChatTokenizer(folder, AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|image|>"))


def conversation_of(messages: list[Message]) -> list[dict[str, object]]:
    conversation: list[dict[str, object]] = []
    for message in messages:
        content: object = [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
            for part in message.parts
        ]
        if len(message.parts) == 1 and isinstance(message.parts[0], TextPart):
            content = message.parts[0].text
        conversation.append({"role": message.role, "content": content})
    return conversation


def reference(folder: Path, messages: list[Message]) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(conversation_of(messages), add_generation_prompt=True, return_dict=False)


def user(*parts: str | ImagePart) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


CONVERSATIONS = [
    [user(PICTURE, "这张图里的设备红灯代表什么")],
    [user("What is this?", PICTURE, "And that?", PICTURE)],
    [user("one", " two", "\nthree")],
    [user("\n\n line breaks \n\n at both ends \n\n")],
    [user("  spaces  ")],
    [user("emoji 😀 and \U000f0000 private \ue000 use, ｆｕｌｌ width")],
    [user("a < b | c > d, [x] <| |> // <x>")],
    [user(PICTURE)],
    [
        Message("system", (TextPart("Answer briefly.\n"),)),
        user(PICTURE, "Who?"),
        Message("assistant", (TextPart("\n A cat. \n"),)),
        user("Sure?\n"),
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_ids_equal_the_tokenizers_own_chat_template(any_checkpoint: Path, messages: list[Message]) -> None:
    assert own(any_checkpoint).encode(messages, LIMIT).tolist() == reference(any_checkpoint, messages)


ORDINARY = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=40)


def test_ids_equal_the_tokenizers_own_for_any_ordinary_text(any_checkpoint: Path) -> None:
    chat = own(any_checkpoint)
    theirs = AutoTokenizer.from_pretrained(any_checkpoint)

    @settings(max_examples=150, deadline=None)
    @given(ORDINARY.filter(lambda text: text.strip() and not any(token in text for token in SPECIAL + ADDED)))
    def check(text: str) -> None:
        expected = theirs.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        assert chat.encode([user(text)], LIMIT).tolist() == expected

    check()


LOOK_ALIKES = st.lists(
    st.sampled_from(
        [*SPECIAL, *ADDED, "<|ima", "ge|>", "<|", "|>", "/no", "think", " ", "\n", "x", "红", "\udc3c", "\udbff"]
    ),
    min_size=1,
    max_size=12,
).map("".join)


def test_no_text_becomes_a_special_token(any_checkpoint: Path) -> None:
    chat = own(any_checkpoint)
    theirs = AutoTokenizer.from_pretrained(any_checkpoint)
    special = set(theirs.convert_tokens_to_ids(SPECIAL + ADDED))

    def specials(messages: list[Message]) -> list[int]:
        return [number for number in chat.encode(messages, LIMIT).tolist() if number in special]

    expected = specials(
        [Message("system", (TextPart("x"),)), user("x", PICTURE, "y"), Message("assistant", (TextPart("z"),))]
    )

    @settings(max_examples=200, deadline=None)
    @given(LOOK_ALIKES, LOOK_ALIKES, LOOK_ALIKES, LOOK_ALIKES)
    def check(one: str, two: str, three: str, four: str) -> None:
        messages = [
            Message("system", (TextPart(one),)),
            user("x" + two, PICTURE, three),
            Message("assistant", (TextPart(four),)),
        ]
        assert specials(messages) == expected

    check()


def test_a_special_token_split_over_two_parts_stays_text(checkpoint: Path) -> None:
    chat = own(checkpoint)
    whole = chat.encode([user("<|image|>")], LIMIT)
    halves = chat.encode([user("<|ima", "ge|>")], LIMIT)
    np.testing.assert_array_equal(whole, halves)


def test_a_look_alike_is_kept_letter_for_letter(any_checkpoint: Path) -> None:
    text = "say <|user|> and [gMASK] /nothink </think> <|image|>"
    token_ids = own(any_checkpoint).encode([user(text)], LIMIT)
    assert text in AutoTokenizer.from_pretrained(any_checkpoint).decode(token_ids, skip_special_tokens=True)


BEGUN = [
    [user(PICTURE, "Which number?"), Message("assistant", (TextPart("The number is"),))],
    [user("Hi"), Message("assistant", (TextPart("Hello!"),)), user("Q"), Message("assistant", (TextPart("A: [1,"),))],
    [user("Q"), Message("assistant", (TextPart("a < b | 😀"),))],
]


@pytest.mark.parametrize("messages", BEGUN, ids=range(len(BEGUN)))
def test_an_answer_that_is_begun_is_the_end_of_the_prompt(any_checkpoint: Path, messages: list[Message]) -> None:
    """As with transformers' `continue_final_message`; a model that always thinks has thought nothing."""
    chat, begun = own(any_checkpoint), text_of(messages[-1])
    ids = chat.encode(messages, LIMIT, think=False, continue_last=True).tolist()
    tokenizer = AutoTokenizer.from_pretrained(any_checkpoint)
    rendered = tokenizer.apply_chat_template(
        conversation_of(messages), continue_final_message=True, tokenize=False, enable_thinking=False
    )
    if chat.thinking.always:
        rendered = rendered.removesuffix(begun) + "<think></think><answer>" + begun
    assert tokenizer.decode(ids) == rendered
    before = chat.encode(messages[:-1], LIMIT, think=False).tolist()
    assert ids[: len(before)] == before  # so that the tokens of the prompt do not change at the seam


def test_earlier_reasoning_is_not_repeated_to_the_model(any_checkpoint: Path) -> None:
    chat = own(any_checkpoint)
    told = [user("a"), Message("assistant", (TextPart("<think>hm</think>\nyes"),)), user("b")]
    bare = [user("a"), Message("assistant", (TextPart("yes"),)), user("b")]
    np.testing.assert_array_equal(chat.encode(told, LIMIT), chat.encode(bare, LIMIT))


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(checkpoint: Path) -> None:
    with pytest.raises(ContextTooLong, match="8192"):
        own(checkpoint).encode([user("x" * 50_000_000)], LIMIT)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|user|>{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content if m.content is string else m.content[1].text }}{% endfor %}",
        "{% for m in messages %}{% for c in m.content %}{{ c.text if c.text else '' }}{% endfor %}{% endfor %}",
    ],
    ids=["drops text", "reorders", "writes no placeholder"],
)
def test_a_template_that_loses_content_is_refused_at_the_start(
    write_checkpoint: WriteCheckpoint, template: str
) -> None:
    with pytest.raises(ServiceError, match="template"):
        own(write_checkpoint(template))


def test_the_template_is_also_found_in_the_tokenizers_settings(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(GLM45V_TEMPLATE)
    expected = own(folder).encode([user("Hello")], LIMIT)
    (folder / "chat_template.json").write_text('{"chat_template": ' + __import__("json").dumps(GLM45V_TEMPLATE) + "}")
    (folder / "chat_template.jinja").unlink()
    np.testing.assert_array_equal(own(folder).encode([user("Hello")], LIMIT), expected)
