"""serve_app uses the field's standard terms: words that were replaced do not come back."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A word or phrase, as a regular expression over small letters -> what to write instead.
REPLACEMENTS = {
    re.compile(rf"\b(?:{words})\b"): better
    for words, better in {
        r"(?:un)?told|tell|tells|telling": "return, report, stream, log or render",
        r"hand(?:s|ed|ing)? (?:it |them |this )?(?:out|over)": "dispatch, pass or forward",
        r"(?:un)?veil(?:s|ed|ing)?": "escape or special_token_escape",
        r"doors?": "route, API, port or endpoint",
        r"last words": "last log lines",
        r"strangers?": "independent, or the name of the other client",
        r"(?:caller|client|model|user) s (?:own )?will": "what the request asks for",
        r"mend(?:s|ed|ing)?": "fix or repair",
        r"whole (?:answer|reply|response)s?": "complete, or non-streaming",
        r"in company": "batched, or with other requests",
        r"drew|drawn|draws?": "sample",
        r"entrances?": "API or route",
        r"in work": "in progress",
        r"fates?": "result, or leave it out",
        r"(?:asks?|asked) of": "the interface, or what is called",
        r"on (?:its|their) way": "the state: launched, being copied, being received",
    }.items()
}
FSTRING = [tokenize.FSTRING_MIDDLE] if hasattr(tokenize, "FSTRING_MIDDLE") else []  # Python 3.12
SEARCHED = (tokenize.NAME, tokenize.COMMENT, tokenize.STRING, *FSTRING)


def words(text: str, first_line: int) -> Iterator[tuple[str, int]]:
    """The words of an identifier or a text in small letters, with their lines: `handOut` and `hand_out` are two."""
    for number, line in enumerate(text.splitlines(), first_line):
        separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", line)
        yield from ((word.lower(), number) for word in re.split(r"[\W_]+", separated) if word)


def complaints(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Each listed word in the identifiers, docstrings, comments and strings of a file, with file, line and advice."""
    with path.open("rb") as stream:
        tokens = [token for token in tokenize.tokenize(stream.readline) if token.type in SEARCHED]
    for token in tokens:
        found = list(words(token.string, token.start[0]))
        text = " ".join(word for word, _ in found)
        for pattern, better in REPLACEMENTS.items():
            for match in pattern.finditer(text):
                _, line = found[text.count(" ", 0, match.start())]
                yield f'{path.relative_to(root)}:{line}: "{match[0]}" is not used here; write {better}.'


def sources() -> list[Path]:
    return sorted((ROOT / "serve_app").rglob("*.py"))


def test_no_replaced_word_is_in_the_code() -> None:
    found = [complaint for path in sources() for complaint in complaints(path)]
    if found:
        pytest.fail(f"{len(found)} replaced words have come back:\n" + "\n".join(found), pytrace=False)


def test_words_are_found_in_identifiers_docstrings_comments_and_strings(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        '"""Their last\n\nwords at a door."""\n_untold = handOut = "hand it over"  # the caller\'s own will\n'
    )
    assert [complaint.partition(" is not")[0] for complaint in complaints(file, tmp_path)] == [
        'sample.py:3: "door"',
        'sample.py:1: "last words"',
        'sample.py:4: "untold"',
        'sample.py:4: "hand out"',
        'sample.py:4: "hand it over"',
        'sample.py:4: "caller s own will"',
    ]
