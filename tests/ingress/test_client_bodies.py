"""Bodies as Windows, other encodings and browsers make them: read, or refused with what to do."""

from __future__ import annotations

import json

import pytest

from serve_app.contracts import ImagePart, TextPart
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
async def test_a_body_may_be_a_file_that_windows_wrote(make_client: MakeClient, encoding: str) -> None:
    answer = FakeAnswer("x")
    content = json.dumps(chat("物流单号?"), ensure_ascii=False).replace(", ", ",\r\n")
    marked = "\ufeff" + content if encoding == "utf-16-be" else content
    response = await make_client(answer).post("/v1/chat/completions", content=marked.encode(encoding))
    assert response.status_code == 200, response.text
    assert answer.requests[0].messages[0].parts == (TextPart("物流单号?"),)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"user": "单号"}'.encode("gbk"),
            "The body is not UTF-8: byte 10 is 0xb5. Encode the JSON as UTF-8.",
        ),
        (b"\xff\xfe{\x00}", "The body begins like UTF-16 but is not; encode the JSON as UTF-8."),
    ],
)
async def test_a_body_in_another_encoding_is_told_to_be_utf_8(
    make_client: MakeClient, body: bytes, message: str
) -> None:
    response = await make_client().post("/v1/chat/completions", content=body)
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)


async def test_fields_of_a_form_that_nobody_filled_in_ask_for_nothing(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    parts = [
        *(f'name="{name}"\r\n\r\n' for name in ("stream", "max_tokens", "temperature", "model", "pages")),
        'name="question"\r\n\r\nx',
        'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\npng',
        *(
            f'name="{name}"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n'
            for name in ("image", "file")
        ),
    ]
    form = "".join(f"--x\r\nContent-Disposition: form-data; {part}\r\n" for part in parts) + "--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = await make_client(answer).post("/v1/ask", content=form.encode(), headers=headers)
    assert response.status_code == 200, response.text
    assert answer.requests[0].messages[0].parts == (ImagePart(b"png", "image"), TextPart("x"))
