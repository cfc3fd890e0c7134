"""Multipart forms byte by byte, as browsers, libraries and older clients make them."""

from __future__ import annotations

import base64
from typing import Any, TypeAlias

import httpx
import pytest

from serve_app.contracts import ImagePart, TextPart
from tests.fakes import FakeAnswer
from tests.ingress.client import PNG, MakeClient

Part: TypeAlias = tuple[list[bytes], bytes]

QUESTION: Part = ([b'Content-Disposition: form-data; name="question"'], "运单号?".encode())
UNSELECTED: Part = (
    [b'Content-Disposition: form-data; name="file"; filename=""', b"Content-Type: application/octet-stream"],
    b"",
)


def picture(disposition: bytes = b'name="image"; filename="a.png"', *more: bytes, content: bytes = PNG) -> Part:
    return [b"Content-Disposition: form-data; " + disposition, *more], content


def field(name: bytes, value: bytes = b"", *more: bytes) -> Part:
    return [b'Content-Disposition: form-data; name="' + name + b'"', *more], value


async def send(make_client: MakeClient, *parts: Part, end: bytes = b"--b--\r\n") -> tuple[httpx.Response, Any]:
    """The response, and the parts of the message that the pipeline got."""
    body = b"".join(b"--b\r\n" + b"\r\n".join([*headers, b"", content, b""]) for headers, content in parts)
    answer = FakeAnswer("x")
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await make_client(answer).post("/v1/ask", content=body + end, headers=headers)
    return response, [part for request in answer.requests for message in request.messages for part in message.parts]


@pytest.mark.parametrize(
    "headers",
    [
        (b"name=\"image\"; filename*=UTF-8''%E6%A0%87.png",),
        (b"name=\"image\"; filename*=UTF-8''%E6%A0%87.png", b"Content-Type: image/png"),
        (b'name="image"', b"Content-Type: image/png"),
        (b'name="image"', b"Content-Type: application/octet-stream"),
        (b'name="image"; filename=""', b"Content-Type: image/png"),
        (b'name="image"; filename="a.png"', b"Content-Transfer-Encoding: binary"),
    ],
)
async def test_an_upload_may_lack_a_plain_file_name(make_client: MakeClient, headers: tuple[bytes, ...]) -> None:
    response, (seen, text) = await send(make_client, picture(*headers), QUESTION)
    assert response.status_code == 200
    assert isinstance(seen, ImagePart)
    assert (seen.source, text.text) == (PNG, "运单号?")


@pytest.mark.parametrize("content", [PNG, b"a" * 1_100_000])
async def test_a_picture_in_a_text_part_is_not_called_badly_encoded_text(
    make_client: MakeClient, content: bytes
) -> None:
    response, _ = await send(make_client, picture(b'name="image"', content=content), QUESTION)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "image")
    assert error["message"] == "'image' must be a file upload: its part needs a filename."


async def test_a_text_part_of_json_stays_a_text(make_client: MakeClient) -> None:
    response, (_, text) = await send(
        make_client, picture(), field(b"question", b'"which?"', b"Content-Type: application/json")
    )
    assert (response.status_code, text) == (200, TextPart('"which?"'))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            field(b"question", "运".encode("utf-16-le"), b"Content-Type: text/plain; charset=UTF-16LE"),
            "The text of 'question' is not UTF-8; encode the form as UTF-8.",
        ),
        (
            field(b"question", b"a\0?\0", b'Content-Type: text/plain; charset="utf-16"'),
            "The text of 'question' is not UTF-8; encode the form as UTF-8.",
        ),
        (
            field(b"question", b"=E8=BF=90", b"Content-Transfer-Encoding: quoted-printable"),
            "'question' has the Content-Transfer-Encoding 'quoted-printable'; send its bytes as they are, without this"
            " header.",
        ),
        (
            picture(b'name="image"; filename="a"', b"content-transfer-encoding: BASE64", content=base64.b64encode(PNG)),
            "'image' has the Content-Transfer-Encoding 'base64'; send its bytes as they are, without this header.",
        ),
    ],
)
async def test_an_encoded_part_is_refused_instead_of_read_garbled(
    make_client: MakeClient, part: Part, message: str
) -> None:
    response, seen = await send(make_client, picture(), part)
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)
    assert seen == []


async def test_what_java_says_about_its_texts_is_accepted(make_client: MakeClient) -> None:
    headers = (b"Content-Type: text/plain; charset=ISO-8859-1", b"Content-Transfer-Encoding: 8bit")
    response, (_, text) = await send(make_client, picture(), field(b"question", b"which?", *headers))
    assert (response.status_code, text) == (200, TextPart("which?"))


@pytest.mark.parametrize("end", [b"", b'--b\r\nContent-Disposition: form-data; name="temperature"\r\n\r\n0'])
async def test_a_form_that_is_cut_off_is_refused(make_client: MakeClient, end: bytes) -> None:
    """Its last part was left out: the answer had other settings, or the error said that the question was missing."""
    response, seen = await send(make_client, picture(), QUESTION, end=end)
    name = "temperature" if end else "question"
    message = f"The form ends inside the part '{name}', before the closing boundary. Send the complete form."
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)
    assert seen == []


async def test_inputs_of_a_web_form_that_were_left_empty_ask_for_nothing(make_client: MakeClient) -> None:
    empty = [field(name) for name in (b"max_tokens", b"temperature", b"stream", b"model", b"pages")]
    response, seen = await send(make_client, picture(), UNSELECTED, QUESTION, *empty)
    assert response.status_code == 200
    assert [getattr(part, "param", None) for part in seen] == ["image", None]


async def test_a_web_form_without_any_file_lacks_the_picture(make_client: MakeClient) -> None:
    response, _ = await send(make_client, UNSELECTED, QUESTION)
    error = response.json()["error"]
    assert error["message"] == "'image' is required: a picture or a PDF as a file upload."
