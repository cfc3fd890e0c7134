import pytest

from serve_app.contracts import ImagePart, Message, TextPart, ToolCall
from serve_app.preprocess.normalize_messages import normalize_messages, text_of

PICTURE = ImagePart(b"")
QUESTION = Message("user", (TextPart("Q"),))


def answer(text: str, reasoning: str = "", *calls: ToolCall) -> Message:
    return Message("assistant", (TextPart(text),) if text else (), reasoning, calls)


def test_neighbouring_texts_are_joined() -> None:
    parts = (TextPart("a"), TextPart("b"), PICTURE, PICTURE, TextPart("c"), TextPart(""))
    assert normalize_messages([Message("user", parts)])[0].parts == (TextPart("ab"), PICTURE, PICTURE, TextPart("c"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think>\n\nyes", "yes"),
        ("<think>\nhm\n</think>yes", "yes"),
        ("hm</think>yes", "yes"),
        ("<think>a</think>b</think>\nyes", "yes"),
        ("yes", "yes"),
        ("", ""),
    ],
)
def test_reasoning_in_an_earlier_answer_is_removed(text: str, expected: str) -> None:
    assert normalize_messages([QUESTION, answer(text), QUESTION])[1] == answer(expected)


def test_reasoning_after_the_last_question_is_kept() -> None:
    call = ToolCall("1", "look", {})
    messages = [QUESTION, answer("a", "old"), QUESTION, answer("b", "new", call)]
    earlier, now = normalize_messages(messages)[1::2]
    (inline,) = normalize_messages([QUESTION, answer("<think>\nnewer\n</think>\nc")])[1:]
    assert (earlier.reasoning, now.reasoning) == ("", "new")
    assert (inline.reasoning, text_of(inline)) == ("newer", "c")


def test_text_beside_reasoning_of_its_own_field_is_unchanged() -> None:
    assert text_of(normalize_messages([QUESTION, answer("say </think> twice", "hm"), QUESTION])[1]) == (
        "say </think> twice"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think><answer>yes</answer>", "yes"),
        ("<think>hm</think>\n<answer>\nyes\n</answer>\n", "yes"),
        ("<answer>cut off", "cut off"),
        ("say <answer>", "say <answer>"),
    ],
)
def test_answer_tags_are_removed_for_models_that_write_them(text: str, expected: str) -> None:
    assert text_of(normalize_messages([QUESTION, answer(text), QUESTION], answer_tags=True)[1]) == expected
    assert "<answer>" in text_of(normalize_messages([QUESTION, answer(text), QUESTION])[1])


def test_everything_else_of_a_message_is_kept() -> None:
    result = Message("tool", (TextPart("R"), PICTURE), tool_call_id="1", param="input[3]")
    (normalized,) = normalize_messages([result])
    assert (normalized, normalized.param) == (result, "input[3]")
