"""Questions sent as a form."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from serve_app.contracts import (
    Box,
    Boxed,
    Delta,
    ImagePart,
    Message,
    Pages,
    PictureSeen,
    PictureSource,
    Sampling,
    TextPart,
)
from serve_app.errors import ImageRejected, Overloaded
from serve_app.ingress.ask.response import AskReply
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, PNG, MakeClient, events_of, make_app

URL = "/v1/ask"
FORM: dict[str, Any] = {"data": {"question": "What?"}, "files": {"image": PNG}}


async def test_an_upload_and_a_question_get_an_answer(make_client: MakeClient) -> None:
    answer = FakeAnswer("Two ", "cats")
    response = await make_client(answer).post(URL, **FORM)
    assert response.status_code == 200
    reply = response.json()
    TypeAdapter(AskReply).validate_python(reply, strict=True)
    assert (reply["answer"], reply["model"], reply["id"]) == ("Two cats", MODEL, "ask-id2")
    assert reply["usage"]["prompt_tokens_details"]["image_tokens"] == 30
    assert reply["timings"]["encode_ms"] == 3.0
    assert "prefill;dur=4.000" in response.headers["server-timing"]
    (request,) = answer.requests
    assert request.messages == (Message("user", (ImagePart(PNG), TextPart("What?"))),)
    assert (request.param, request.messages[0].param) == ("question", "question")
    assert request.sampling == Sampling()
    assert request.deadline_s == 300


async def test_several_pictures_come_before_the_question_in_their_order(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    files = [("image", ("a.png", b"first")), ("image", ("b.png", b"second"))]
    fields = {"question": "Same?", "max_tokens": "9", "temperature": "0.5", "model": MODEL}
    response = await make_client(answer).post(URL, data=fields, files=files)
    assert response.status_code == 200, response.text
    (request,) = answer.requests
    assert request.messages[0].parts == (
        ImagePart(b"first", "image[0]"),
        ImagePart(b"second", "image[1]"),
        TextPart("Same?"),
    )
    assert request.sampling == Sampling(max_tokens=9, temperature=0.5)


async def test_files_and_pictures_keep_their_order_and_each_has_its_pages(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    parts = [("file", ("a.pdf", b"%PDF-1")), ("image", ("b.png", PNG)), ("file", ("c.pdf", b"%PDF-2"))]
    pages: list[Any] = [("pages", (None, text)) for text in ("1-3,7", "", "2-")]
    response = await make_client(answer).post(URL, data={"question": "Same?"}, files=[*parts, *pages])
    assert response.status_code == 200, response.text
    assert answer.requests[0].messages[0].parts == (
        ImagePart(b"%PDF-1", "file[0]", pages=Pages(((1, 3), (7, 7)), "pages[0]"), noun="File"),
        ImagePart(PNG, "image"),
        ImagePart(b"%PDF-2", "file[1]", pages=Pages(((2, None),), "pages[2]"), noun="File"),
        TextPart("Same?"),
    )


async def test_pages_of_one_file_have_one_field(make_client: MakeClient) -> None:
    answer = FakeAnswer("x", pictures=(PictureSeen((1240, 1754), (840, 1176), 1260, PictureSource(0, 2)),))
    form: dict[str, Any] = {"data": {"question": "?", "pages": "2"}, "files": {"image": b"%PDF-1"}}
    reply = (await make_client(answer).post(URL, **form)).json()
    assert answer.requests[0].messages[0].parts[0] == ImagePart(b"%PDF-1", "image", pages=Pages(((2, 2),)))
    assert (reply["images"][0]["upload"], reply["images"][0]["page"]) == (0, 2)


async def test_a_streamed_answer_ends_with_the_complete_reply(make_client: MakeClient) -> None:
    form: dict[str, Any] = {"data": {"question": "What?", "stream": "true"}, "files": {"image": PNG}}
    response = await make_client(FakeAnswer("两只", "猫")).post(URL, **form)
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, last = [json.loads(line) for line in events_of(response)]
    assert deltas == [{"delta": ""}, {"delta": "两只"}, {"delta": "猫"}]
    TypeAdapter(AskReply).validate_python(last, strict=True)
    assert last["answer"] == "两只猫"


async def test_reasoning_boxes_and_pictures_are_in_the_response(make_client: MakeClient) -> None:
    answer = FakeAnswer(
        Delta("Hm.", 1, "reasoning"),
        "There.",
        pictures=(PictureSeen((4032, 3024), (1120, 840), 1200),),
        boxed=(Boxed("[[1,2,3,4]]", (Box((1, 2, 3, 4), (4, 6, 12, 12), 0),)),),
    )
    reply = (await make_client(answer).post(URL, **FORM)).json()
    TypeAdapter(AskReply).validate_python(reply, strict=True)
    assert (reply["answer"], reply["reasoning"]) == ("There.", "Hm.")
    assert reply["boxes"][0]["boxes"] == [{"box_1000": [1, 2, 3, 4], "box_pixels": [4, 6, 12, 12], "image": 0}]
    assert reply["images"][0]["seen_size"] == [1120, 840]
    form: dict[str, Any] = {"data": {"question": "What?", "stream": "true"}, "files": {"image": PNG}}
    *pieces, last = [json.loads(line) for line in events_of(await make_client(answer).post(URL, **form))]
    assert pieces == [{"delta": ""}, {"reasoning": "Hm."}, {"delta": "There."}]
    for each in (last, reply):
        del each["timings"]
    assert last == reply


async def test_a_late_failure_is_the_last_event(make_client: MakeClient) -> None:
    form: dict[str, Any] = {"data": {"question": "What?", "stream": "1"}, "files": {"image": PNG}}
    answer = FakeAnswer("Two ", error=Overloaded("No memory left."), fail_after=2)
    last = json.loads(events_of(await make_client(answer).post(URL, **form))[-1])
    assert last["error"]["code"] == "overloaded"


async def test_a_refused_picture_keeps_its_status(make_client: MakeClient) -> None:
    answer = FakeAnswer("x", error=ImageRejected("'image' is not a picture.", "image"))
    response = await make_client(answer).post(URL, **FORM)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize(
    ("form", "param", "message"),
    [
        (
            {"data": {"question": "?"}, "files": {"other": PNG}},
            "other",
            "'other' is a file; only 'image' and 'file' may be one.",
        ),
        (
            {"data": {"question": "?"}, "files": {"x": (None, "1")}},
            "x",
            "'x' is not a field of this request.",
        ),
        (
            {"data": {"question": "?", "pages": "x"}, "files": {"image": PNG}},
            "pages",
            "'pages' is 'x'; it must name pages from 1 and ranges of them, such as '1-3,7' or '5-', 100 at most.",
        ),
        (
            {"data": {"question": "?", "pages": ["1", "2"]}, "files": {"image": PNG}},
            "pages",
            "The form has 1 files and pictures, but 2 fields 'pages'. Give one for each, in their order; an empty one"
            " means all pages.",
        ),
        (
            {"data": {"question": "?"}, "files": {"image": PNG, "pages": ("a.txt", b"1")}},
            "pages",
            "'pages' must be text, not a file.",
        ),
        (
            {"data": {}, "files": {"question": (None, "?")}},
            "image",
            "'image' is required: a picture or a PDF as a file upload.",
        ),
        (
            {"data": {"question": "?"}, "files": {"image": (None, "https://a/b.png")}},
            "image",
            "'image' must be a file upload, not text.",
        ),
        (
            {"data": {"question": "?"}, "files": {"image": ("a.png", b"")}},
            "image",
            "'image' is empty: the upload has 0 bytes.",
        ),
        ({"files": {"image": PNG}}, "question", "'question' is required."),
        (
            {"data": {"question": ["a", "b"]}, "files": {"image": PNG}},
            "question",
            "'question' is given more than once.",
        ),
        (
            {"data": {"question": "?", "max_tokens": "-1"}, "files": {"image": PNG}},
            "max_tokens",
            "'max_tokens' must be greater than or equal to 1.",
        ),
        (
            {"data": {"question": "?", "temperature": "hot"}, "files": {"image": PNG}},
            "temperature",
            "'temperature' must be a valid number, unable to parse string as a number.",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            None,
            "The form can't be read: Missing boundary in multipart.",
        ),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
            None,
            "The form can't be read: Invalid multipart data.",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_form_is_named_with_a_sentence(
    make_client: MakeClient, form: dict[str, Any], param: str | None, message: str
) -> None:
    answer = FakeAnswer("x")
    response = await make_client(answer).post(URL, **form)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["message"]) == (param, message)
    assert answer.requests == []


@pytest.mark.parametrize("body", [{"json": {"question": "?"}}, {"content": b"x"}, {"data": {"question": "?"}}])
async def test_what_is_not_a_form_is_a_415(make_client: MakeClient, body: dict[str, Any]) -> None:
    response = await make_client().post(URL, **body)
    assert response.status_code == 415
    assert response.json()["error"] == {
        "message": "Send the picture and the question as multipart/form-data.",
        "type": "invalid_request_error",
        "param": None,
        "code": "unsupported_media_type",
    }


async def test_an_unknown_model_is_a_404(make_client: MakeClient) -> None:
    response = await make_client().post(URL, data={"question": "?", "model": "other"}, files={"image": PNG})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("charset", ["hex", "rot13", "nonsense", "utf-16", "idna", "punycode", "undefined", "gbk"])
async def test_a_form_in_another_charset_than_utf_8_is_refused(make_client: MakeClient, charset: str) -> None:
    """`punycode` with 1 MB took 23 s, `undefined` and `idna` gave a 500."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n\xff\xfe\x00\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    )
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    response = await make_client().post(URL, content=body, headers=headers)
    assert response.status_code == 415
    assert charset in response.json()["error"]["message"]


async def test_a_question_that_is_not_utf_8_is_refused_by_its_name(make_client: MakeClient) -> None:
    """It was read as Latin-1, and the garbled question was answered."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n' + "运单号是多少?".encode("gbk") + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    )
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await make_client().post(URL, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "question")


APP = make_app(FakeAnswer("x"))
HEADS = st.sampled_from(
    [
        b'Content-Disposition: form-data; name="image"; filename="a"',
        b'Content-Disposition: form-data; name="question"',
    ]
)
LINES = st.lists(st.sampled_from([b"--b", b"--b--", b""]) | HEADS | st.binary(max_size=30), max_size=12)


@settings(max_examples=200, deadline=None)
@given(lines=LINES)
async def test_no_form_makes_the_app_fail(lines: list[bytes]) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://localhost") as client:
        response = await client.post(URL, content=b"\r\n".join(lines), headers=headers)
    assert response.status_code in (200, 400), response.text
