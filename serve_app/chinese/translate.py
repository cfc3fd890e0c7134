"""From an English sentence of this package to the Chinese one, by templates; every value stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from serve_app.chinese.codes import CODES
from serve_app.chinese.language import Language, language_of_terminal
from serve_app.chinese.request_sentences import REQUESTS, RULES
from serve_app.chinese.sentences import PHRASES, REASONS, SENTENCES
from serve_app.chinese.terminal import LINES

MAX_LENGTH: Final = 2000  # characters; a longer text is no sentence of this package
_PICTURE: Final = re.compile(r"(?:(Picture|File) (\d+)|Page (\d+) of file (\d+)) (.+)\.", re.DOTALL)
_CALLER: Final = re.compile(r"The (caller|tenant) (.+)", re.DOTALL)
_PREFIXES: Final = {"glm-serve: ": "glm-serve：", "warning: ": "警告："}
_COUNTED: Final = re.compile(r"(\d+) (problem|warning|slot)s?")
_TOKENS: Final = re.compile(r" of (\d+) tokens")
_COUNTS: Final = re.compile(r"(?:\d+ (?:problem|warning|slot)s?|[ ()]| of \d+ tokens)+")


class _Value(str):
    """A value of a template; `{0:zh}` translates it."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return _part(self) if spec == "zh" else str(self)


def message_in_chinese(message: str, code: str) -> str:
    """The Chinese text of an error; without a translation, a sentence about its code and then the English one."""
    if translated := _sentence(message):
        return translated
    about = CODES.get(code)
    return f"{about.replace('`', '')}{message}" if about else message


def line_in(language: Language, line: str) -> str:
    """A line of the command line in this language; unchanged without a translation."""
    if language == "en":
        return line
    for prefix, chinese in _PREFIXES.items():
        if line.startswith(prefix):
            return chinese + line_in(language, line.removeprefix(prefix))
    return _match(_LINES, line) or _sentence(line) or line


def in_terminal_language(line: str) -> str:
    """A line in the language of LC_ALL, LC_MESSAGES or LANG."""
    return line_in(language_of_terminal(), line)


def _sentence(text: str) -> str | None:
    head, point, last = text.rpartition(". ")  # what may follow a sentence, such as a hint
    translated = _match(_SENTENCES, f"{head}.") if point else None
    after = _match(_SENTENCES, last) or _match(_SENTENCES, f" {last}") if translated else None
    if after:
        return f"{translated}{after}"
    return _match(_SENTENCES, text) or _picture(text)


def _picture(text: str) -> str | None:
    picture = _PICTURE.fullmatch(text)
    reason = _match(_REASONS, picture[5]) if picture else None
    if picture is None or reason is None:
        return None
    noun, number, page, file, _ = picture.groups()
    where = f"文件 {file} 的第 {page} 页" if page else f"{'图片' if noun == 'Picture' else '文件'} {number}"
    return f"{where} {reason}。"


def _part(text: str) -> str:
    """A phrase, a sentence, or the name of a caller inside another sentence; other values as they are."""
    if _COUNTS.fullmatch(text):
        counts = _COUNTED.sub(lambda found: f"{found[1]} 个{PHRASES[found[2]]}", text)
        return _TOKENS.sub(r"（每个 \1 个 token）", counts).replace(" (", "（").replace(")", "）")
    if translated := PHRASES.get(text) or _match(_SENTENCES, text) or _match(_LINES, text):
        return translated
    caller = _CALLER.fullmatch(text)
    return f"{'调用方' if caller[1] == 'caller' else '租户'} {caller[2]} " if caller else text


def _match(templates: Mapping[tuple[str, ...], str], text: str) -> str | None:
    for literals, chinese in templates.items() if len(text) <= MAX_LENGTH else ():
        if (values := _values(literals, text)) is not None:
            return chinese.format(*map(_Value, values))
    return None


def _values(literals: tuple[str, ...], text: str) -> list[str] | None:
    """What stands between the literals, which have to be the beginning, the end and in order between; None if not.

    Each is taken where it is found first, without going back: that finds a match if there is one, in linear time.
    """
    first, *middle = literals
    if not middle:
        return [] if text == first else None
    last = middle.pop()
    end = len(text) - len(last)
    if not (text.startswith(first) and text.endswith(last)):
        return None
    values, place = [], len(first)
    for literal in middle:
        found = text.find(literal, place, end)
        if found < 0:
            return None
        values.append(text[place:found])
        place = found + len(literal)
    return [*values, text[place:end]] if place <= end else None


def _split(catalogue: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    return {tuple(english.split("{}")): chinese for english, chinese in catalogue.items()}


_SENTENCES: Final = _split({**SENTENCES, **REQUESTS, **RULES})
_REASONS: Final = _split(REASONS)
_LINES: Final = _split(LINES)
