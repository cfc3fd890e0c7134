"""Documents and pictures as files: the parts of each API, and the pages that a text names."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import ImagePart, Pages
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.files import MAX_RANGES, parse_pages
from serve_app.ingress.responses.request import ResponseBody, response_request
from tests.ingress.client import chat, parse_chat

PDF = "data:application/pdf;base64,JVBERi0xLjQK"
ADDRESS = "https://files.example/invoice.pdf"
CHAT = "messages[0].content[0]"


def of_chat(part: dict[str, Any]) -> Any:
    return parse_chat(chat([part])).messages[0].parts[0]


def of_responses(part: dict[str, Any]) -> Any:
    body = ResponseBody.read({"input": [{"role": "user", "content": [part]}]})
    return response_request(body, id="one", deadline_s=9.0).messages[0].parts[0]


def test_a_file_of_the_chat_api_is_a_part_that_names_its_field() -> None:
    part = of_chat({"type": "file", "file": {"file_data": PDF, "filename": "a.pdf", "format": "application/pdf"}})
    assert part == ImagePart(PDF, f"{CHAT}.file.file_data", noun="File")
    part = of_chat({"type": "file", "file": {"file_data": "JVBERi0xLjQK", "pages": "2", "file_id": None}})
    assert part.pages == Pages(((2, 2),), f"{CHAT}.file.pages")


def test_a_file_of_the_responses_api_is_a_part_that_names_its_field() -> None:
    at = "input[0].content[0]"
    part = of_responses({"type": "input_file", "file_data": PDF, "filename": "a.pdf", "detail": "high"})
    assert part == ImagePart(PDF, f"{at}.file_data", "high", noun="File")
    part = of_responses({"type": "input_file", "file_url": ADDRESS, "pages": "1-3,7"})
    assert part == ImagePart(ADDRESS, f"{at}.file_url", "auto", Pages(((1, 3), (7, 7)), f"{at}.pages"), "File")


def test_a_file_of_zai_is_a_part_that_names_its_field() -> None:
    part = of_chat({"type": "file_url", "file_url": {"url": ADDRESS, "pages": "5-"}})
    assert part == ImagePart(ADDRESS, f"{CHAT}.file_url", "auto", Pages(((5, None),), f"{CHAT}.file_url.pages"), "File")


def test_a_result_of_a_tool_may_be_a_file() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "scan", "arguments": "{}"}}
    file = {"type": "file", "file": {"file_data": PDF}}
    body = {
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": [file]},
        ]
    }
    assert parse_chat(body).messages[1].parts == (ImagePart(PDF, "messages[1].content[0].file.file_data", noun="File"),)


@pytest.mark.parametrize(
    ("read", "part", "param", "message"),
    [
        (
            of_chat,
            {"type": "file", "file": {"file_id": "file-1", "file_data": PDF}},
            f"{CHAT}.file.file_id",
            "is not supported: this service keeps no files. Send the file as 'file_data'.",
        ),
        (of_chat, {"type": "file", "file": {"filename": "a.pdf"}}, f"{CHAT}.file.file_data", "is required: the file"),
        (of_chat, {"type": "file", "file": {"file_dat": PDF}}, f"{CHAT}.file.file_dat", "is not a field"),
        (of_chat, {"type": "file_url", "file_url": {}}, f"{CHAT}.file_url.url", "is required"),
        (
            of_responses,
            {"type": "input_file", "file_data": PDF, "file_url": ADDRESS},
            "input[0].content[0].file_url",
            "has both 'file_data' and 'file_url'; send one of them.",
        ),
        (
            of_chat,
            {"type": "file", "file": {"file_data": PDF, "pages": "3-1"}},
            f"{CHAT}.file.pages",
            "is '3-1'; it must name pages from 1 and ranges of them, such as '1-3,7' or '5-', 100 at most.",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_its_field(read: Any, part: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(part)
    assert refused.value.param == param
    assert message in refused.value.message


# -- pages ----------------------------------------------------------------------------------------

PAGE = st.integers(1, 999_999)
RANGE = st.tuples(PAGE, st.none() | PAGE).filter(lambda ends: ends[1] is None or ends[0] <= ends[1])
RANGES = st.lists(RANGE, min_size=1, max_size=MAX_RANGES)
SPACE = st.sampled_from(["", " ", "\t"])


@given(RANGES, st.data())
def test_every_list_of_ranges_is_read_as_it_is_written(
    ranges: list[tuple[int, int | None]], data: st.DataObject
) -> None:
    def written(first: int, last: int | None) -> str:
        space = data.draw(SPACE)
        if first == last and data.draw(st.booleans()):
            return f"{space}{first}{space}"
        return f"{space}{first}{space}-{space}{'' if last is None else last}{space}"

    text = ",".join(written(first, last) for first, last in ranges)
    assert parse_pages(text, "pages") == Pages(tuple(ranges), "pages")


@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.text("0123456789-, ", max_size=12))
def test_any_other_text_is_refused_by_name_or_means_all_pages(text: str) -> None:
    if not text.strip():
        assert parse_pages(text, "pages") is None
        return
    pages: Pages | None = None
    with suppress(InvalidRequest):
        pages = parse_pages(text, "pages")
        assert pages is not None
    assert all(first >= 1 and (last is None or last >= first) for first, last in (pages.ranges if pages else ()))


@pytest.mark.parametrize(
    "text", ["0", "1-2-3", "-3", "1,,2", "1,", "a", "1;2", "1 2", "٣", "1234567", "2-1", ",".join("1" * 101)]
)
def test_what_names_no_pages_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_pages(text, "pages")
