"""Refusals of PDFs name the reason of this file, not that of one before it."""

import pytest

from serve_app.errors import ImageRejected
from serve_app.preprocess.pdf import page_sizes, render_page
from serve_app.preprocess.picture_limits import ImageLabel

LABEL = ImageLabel(1, "file", noun="File")
OWNER = USER = b"(12345678901234567890123456789012)"
PASSWORD = b"<</Filter/Standard/V 1/R 2/O" + OWNER + b"/U" + USER + b"/P -4>>/ID[(a)(a)]"


def pdf(pages: int = 1, encryption: bytes = b"") -> bytes:
    kids = b" ".join(b"%d 0 R" % (number + 3) for number in range(pages))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%b]/Count %d>>" % (kids, pages),
        *[b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]>>"] * pages,
    ]
    data, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(b"%010d 00000 n \n" % len(data))
        data += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    table = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + b"".join(places)
    encrypt = b"/Encrypt" + encryption if encryption else b""
    trailer = b"trailer<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, encrypt, len(data))
    return data + table + trailer


def refusal(data: bytes) -> str:
    with pytest.raises(ImageRejected) as refused:
        page_sizes(data, None, 100, LABEL)
    return str(refused.value)


def test_a_plain_pdf_is_read() -> None:
    assert page_sizes(pdf(), None, 100, LABEL) == [(1, 200, 100)]
    assert render_page(pdf(), 1, 200, 100, LABEL).size == (200, 100)


def test_a_pdf_without_pages_is_not_said_to_need_the_password_of_the_pdf_before_it() -> None:
    assert refusal(pdf(encryption=PASSWORD)) == "File 1 is a PDF that needs a password. Send it without one."
    assert "password" not in refusal(pdf(pages=0))


def test_a_pdf_whose_protection_is_unknown_is_not_called_damaged() -> None:
    message = "File 1 is a protected PDF that this service can't open. Remove the protection."
    assert refusal(pdf(encryption=b"<</Filter/Company/V 1>>")) == message
