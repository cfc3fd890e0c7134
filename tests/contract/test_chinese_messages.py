"""serve_app/chinese: each code has a Chinese sentence, and each template is a text of the code, letter by letter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic_core._pydantic_core import list_all_errors

from serve_app.chinese.codes import CODES
from serve_app.chinese.language import language_of_header, language_of_terminal
from serve_app.chinese.request_sentences import REQUESTS, RULES
from serve_app.chinese.sentences import PHRASES, REASONS, SENTENCES
from serve_app.chinese.terminal import LINES
from serve_app.chinese.translate import line_in, message_in_chinese
from tests.contract.test_pages import generate

PACKAGE = Path(__file__).parents[2] / "serve_app"
PREFIX = "glm-serve: "
CATALOGUES = {"SENTENCES": SENTENCES, "REQUESTS": REQUESTS, "REASONS": REASONS, "PHRASES": PHRASES, "LINES": LINES}


def texts_of_the_code() -> set[str]:
    """All strings of the package with `{}` for each value."""
    return {
        re.sub(r"\{\w+\}", "{}", text).removeprefix(PREFIX)
        for file in PACKAGE.rglob("*.py")
        if file.parent.name != "chinese"
        for text in _texts(ast.parse(file.read_text()))
    }


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "".join(map(str, parts))


TEXTS = texts_of_the_code()


@pytest.mark.parametrize("name", CATALOGUES)
def test_what_is_translated_is_what_the_code_says(name: str) -> None:
    """A reworded message needs its new words in serve_app/chinese too; without an entry it is sent in English."""
    old = [english for english in CATALOGUES[name] if english not in TEXTS]
    assert old == [], "change these in serve_app/chinese to the words of the code, or remove them"


def test_each_rule_of_a_value_is_one_of_pydantic_or_of_the_code() -> None:
    pydantic = {re.sub(r"\{\w+\}", "{}", each["message_template_python"]) for each in list_all_errors()}
    rules = {rule.removeprefix("Input should ") for rule in pydantic} | {rule.removeprefix("must ") for rule in TEXTS}
    for english in RULES:
        rule = english.removeprefix("{} must ").removesuffix(".")
        assert {rule, rule.removesuffix(", not {}")} & rules, english


@pytest.mark.parametrize("name", [*CATALOGUES, "RULES"])
def test_no_value_is_lost_but_where_the_chinese_sentence_has_no_place_for_it(name: str) -> None:
    for english, chinese in (CATALOGUES | {"RULES": RULES})[name].items():
        places = set(map(int, re.findall(r"\{(\d+)(?::zh)?\}", chinese)))
        assert places <= set(range(english.count("{}"))), english
        if english != "{} are taken and {} requests are waiting. Try again shortly.":  # says which slots
            assert len(places) == english.count("{}"), english


def test_every_error_code_has_a_chinese_sentence() -> None:
    codes = {error.code for error in generate.error_classes()}
    source = (PACKAGE / "ingress" / "errors.py").read_text()
    codes |= set(re.findall(r'code, message = "(\w+)"', source))
    assert codes == set(CODES)


def sample(english: str) -> str:
    """The template with values that no template has."""
    return "".join(
        part + (f"<{place}>" if place < english.count("{}") else "") for place, part in enumerate(english.split("{}"))
    )


def expected(chinese: str) -> str:
    return re.sub(r"\{(\d+)(?::zh)?\}", r"<\1>", chinese)


@pytest.mark.parametrize(
    "catalogue", [SENTENCES, REQUESTS, RULES, LINES], ids=["SENTENCES", "REQUESTS", "RULES", "LINES"]
)
def test_each_template_finds_its_own_translation(catalogue: Mapping[str, str]) -> None:
    for english, chinese in catalogue.items():
        assert line_in("zh", sample(english)) == expected(chinese)


def test_the_reason_why_a_picture_is_refused_is_translated_with_its_place() -> None:
    for english, chinese in REASONS.items():
        translated = message_in_chinese(f"Picture 2 {sample(english)}.", "invalid_image")
        assert translated == f"图片 2 {expected(chinese)}。"
    page = message_in_chinese("Page 3 of file 2 is 30 MiB; the limit is 20 MiB. Send a smaller file.", "invalid_image")
    assert page == "文件 2 的第 3 页 有 30 MiB，上限是 20 MiB。请发送更小的文件。"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "The caller 'shop' may use 5 requests in 1 seconds; 0 are left, and this request needs 1.",
            "调用方 'shop' 每 1 秒最多使用 5 个请求；还剩 0，本次请求需要 1。",
        ),
        ("'temperature' must be less than or equal to 2, not 3.", "'temperature' 必须小于或等于 2，不能是 3。"),
        (
            "'messages' must have 1 or more entries, not 0. 2 more fields are invalid.",
            "'messages' 至少要有 1 项，现在有 0 项。另有 2 个字段无效。",
        ),
        (
            "'conversation' is not supported by this service. Send the whole conversation as 'input'.",
            "本服务不支持 'conversation'。请用 'input' 发送完整的对话。",
        ),
        (
            "'background' is not supported by this service; it may only be false.",
            "本服务不支持 'background'，只能是 false。",
        ),
        (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens (500 in"
            " the messages, 8500 in the tools): the prompt is too long. Please reduce the length of the messages.",
            "模型的上下文长度上限是 8192 tokens，而消息有 9000 tokens（消息 500 个，工具 8500 个），提示词太长。"
            "请缩短 messages。",
        ),
        (
            "File 1 has 3 pages; 'pages' asks for pages 2 to the end.",
            "文件 1 有 3 页，而 'pages' 要求第 2 页至最后一页。",
        ),
        (
            "Picture 1 is a video file. Send one frame of it as JPEG or PNG; accepted are JPEG, PNG.",
            "图片 1 是视频文件。请发送其中一帧，JPEG 或 PNG 格式；接受的格式有 JPEG, PNG。",
        ),
        ("A message of the future.", "图片无法读取、太大、所在地址不允许访问，或下载失败。A message of the future."),
        ("The API key is not valid." + "!" * 3000, "图片无法读取、太大、所在地址不允许访问，或下载失败。The API key"),
    ],
)
def test_a_message_without_a_translation_follows_what_its_code_means(english: str, chinese: str) -> None:
    assert message_in_chinese(english, "invalid_image").startswith(chinese)


def test_a_hostile_message_takes_no_depth_and_little_time() -> None:
    for english in (*SENTENCES, *REQUESTS, *RULES, *LINES):
        for literal in english.split("{}"):
            message_in_chinese((literal * 2000)[:100_000], "invalid_request")
            message_in_chinese((literal * 2000)[:2000], "invalid_request")


def test_a_code_that_is_not_known_leaves_the_message_as_it_is() -> None:
    assert message_in_chinese("A message of the future.", "future") == "A message of the future."


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("*", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hant-TW", "zh"),
        ("en-US,en;q=0.9,zh-CN;q=0.8", "en"),
        ("en;q=0.3, zh;q=0.7", "zh"),
        ("de,fr;q=0.9", "en"),
        ("de, zh;q=0.1", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=nan,en", "en"),
        ("zh;q=x", "en"),
        ("," * 100_000 + "zh", "en"),
    ],
)
def test_the_language_of_a_request_is_the_preferred_one_of_the_two(header: str, language: str) -> None:
    assert language_of_header(header) == language


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_language_of_a_terminal_is_that_of_its_first_variable(environment: dict[str, str], language: str) -> None:
    assert language_of_terminal(environment) == language


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("glm-serve: The answer is empty.", "glm-serve：回答是空的。"),
        ("glm-serve: The API key is not valid.", "glm-serve：API 密钥无效。"),
        ("glm-serve: Can't serve: 2 problems (1 warning).", "glm-serve：不能运行：2 个问题（1 个警告）。"),
        (
            "Can serve demo: float32 on cpu, with 16 slots of 8192 tokens.",
            "可以运行 demo：float32 on cpu，16 个处理位置（每个 8192 个 token）。",
        ),
        ('{"message": "a log line"}', '{"message": "a log line"}'),
    ],
)
def test_a_line_of_the_terminal_is_chinese_where_it_is_known(english: str, chinese: str) -> None:
    assert line_in("zh", english) == chinese
    assert line_in("en", english) == english
