"""Scanned documents as PDF through every API: the model reads the pages that are asked for."""

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.cluster.questions import EVALUATION

pytestmark = pytest.mark.cluster

PAGES = ("documents-000.jpg", "documents-004.jpg")
QUESTIONS = ("单号是多少?", "编号是多少?")  # about each page, from the evaluation set
NUMBERS = ("WM343215", "QD7825189")


def pdf() -> bytes:
    """Two scanned documents, at the resolution at which pages are rendered."""
    first, second = (Image.open(EVALUATION / name) for name in PAGES)
    stream = io.BytesIO()
    first.save(stream, "PDF", save_all=True, append_images=[second], resolution=150, quality=95)
    return stream.getvalue()


DATA = f"data:application/pdf;base64,{base64.b64encode(pdf()).decode()}"


def posted(base_url: str, path: str, **request: Any) -> dict[str, Any]:
    response = httpx.post(base_url + path, timeout=120, **request)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


@pytest.mark.parametrize("page", [1, 2])
def test_the_page_that_is_asked_for_is_read(base_url: str, page: int) -> None:
    file = {"type": "file", "file": {"file_data": DATA, "filename": "scan.pdf", "pages": f"{page}"}}
    content = [file, {"type": "text", "text": QUESTIONS[page - 1]}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 24}
    reply = posted(base_url, "/v1/chat/completions", json=body)
    assert NUMBERS[page - 1] in reply["choices"][0]["message"]["content"]
    (image,) = reply["images"]
    assert (image["upload"], image["page"]) == (0, page)


def test_a_file_of_the_responses_api_is_read(base_url: str) -> None:
    file = {"type": "input_file", "file_data": DATA, "filename": "scan.pdf", "pages": "1"}
    content = [file, {"type": "input_text", "text": QUESTIONS[0]}]
    body = {"input": [{"role": "user", "content": content}], "temperature": 0, "max_output_tokens": 24}
    reply = posted(base_url, "/v1/responses", json=body)
    assert NUMBERS[0] in reply["output"][-1]["content"][0]["text"]


def test_a_form_with_pages_of_several_files_is_read(base_url: str) -> None:
    files: list[Any] = [
        ("file", ("scan.pdf", pdf(), "application/pdf")),
        ("image", ("page.jpg", (EVALUATION / PAGES[1]).read_bytes(), "image/jpeg")),
    ]
    form = {"question": QUESTIONS[0], "temperature": "0", "max_tokens": "24", "pages": ["2-", ""]}
    reply = posted(base_url, "/v1/ask", data=form, files=files)
    assert [image.get("page") for image in reply["images"]] == [2, None]
    assert reply["answer"]


def test_pages_that_the_document_lacks_are_refused_under_their_field(base_url: str) -> None:
    form = {"question": "?", "pages": "3"}
    response = httpx.post(f"{base_url}/v1/ask", data=form, files={"file": ("scan.pdf", pdf())}, timeout=120)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["message"]) == ("pages", "File 1 has 2 pages; 'pages' asks for page 3.")
