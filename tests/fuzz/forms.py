"""Forms of /v1/ask: multipart bodies as clients, and nobody, would write them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import strategies as st

from tests.fuzz.service import Case
from tests.ingress.client import PNG

Field = tuple[str, str | None, bytes]  # (name, file name, content)

BOUNDARY = "9431149156168"
_NAMES = (
    "question", "image", "images", "image[]", "stream", "max_tokens", "temperature", "model", "file", "pages", "x",
)  # fmt: skip
_TEXTS = (
    b"", b" ", b"How many?", "几只猫？".encode(), "几只猫？".encode("gbk"), b"\xff\xfe", b"true", b"1", b"-1", b"0.5",
    b"NaN", b"1e999", b"9" * 400, b"glm-vision-demo", b"\0", b"<|user|>", b"null", b"1-3", b"a" * 3000,
)  # fmt: skip
_TYPES = (
    "multipart/form-data; boundary=%s", 'multipart/form-data; boundary="%s"', "multipart/form-data",
    "multipart/form-data; boundary=", "multipart/form-data; charset=punycode; boundary=%s",
    "multipart/form-data; charset=gbk; boundary=%s", "Multipart/Form-Data; Boundary=%s; x=y",
    "multipart/form-data; boundary=%s; boundary=other", "multipart/mixed; boundary=%s",
    "application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=idna", "application/json",
    "text/plain", "", "multipart/form-data; boundary*=utf-8''%s", "multipart/form-data;;boundary=%s",
)  # fmt: skip
_HEADERS = (
    "Content-Type: text/plain; charset=undefined", "Content-Type: image/png", "Content-Transfer-Encoding: base64",
    "Content-Transfer-Encoding: quoted-printable", "Content-Disposition: form-data", "X: " + "y" * 5000, ": empty",
    "no colon", "Content-Disposition: attachment; name=image", "Content-Length: 5", "A:1\r\n B:2", "\xff: \xff",
    'Content-Disposition: form-data; name="question"; name="image"', "Content-Type: multipart/mixed; boundary=inner",
)  # fmt: skip


def form(fields: Sequence[Field], boundary: str = BOUNDARY, extra: Sequence[str] = ()) -> Case:
    """A multipart form; `extra` are header lines of the first part."""
    body = b""
    for place, (name, filename, content) in enumerate(fields):
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        lines = [f"--{boundary}", f"Content-Disposition: {disposition}", *(extra if place == 0 else ())]
        body += "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + content + b"\r\n"
    return Case("/v1/ask", body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}")


def urlencoded(rng: Random) -> bytes:
    pieces = b"question=How image= & = % %41 %ff %u4e00 + stream=true ; \0".split(b" ")
    return b"".join(rng.choice(pieces) for _ in range(rng.randrange(20)))


def damaged(rng: Random, body: bytes) -> bytes:
    """The body after one change of its framing or bytes."""
    place = rng.randrange(len(body) + 1)
    match rng.randrange(8):
        case 0:
            return body[:place]
        case 1:
            return body.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n", b"")), rng.choice((1, 1000)))
        case 2:
            return body.replace(
                BOUNDARY.encode(), rng.choice((b"other", b"", BOUNDARY[:-1].encode())), rng.choice((1, 9))
            )
        case 3:
            return body.replace(b'"', rng.choice((b"", b"'", b'\\"', b'""')), rng.choice((1, 1000)))
        case 4:
            return body * rng.choice((2, 20))
        case 5:
            return body[:place] + rng.randbytes(rng.choice((1, 8))) + body[place:]
        case 6:
            return body.replace(b"form-data", rng.choice((b"attachment", b"", b"form-data;" * 200)), 1)
        case _:
            changed = bytearray(body)
            if changed:
                changed[min(place, len(changed) - 1)] ^= 1 << rng.randrange(8)
            return bytes(changed)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = draw(st.randoms(use_true_random=False))
    fields: list[Field] = [("question", None, b"How many?"), ("image", "a.png", PNG)]
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        content = rng.choice(_TEXTS) if rng.random() < 0.8 else rng.choice((PNG, PNG[:40], rng.randbytes(30)))
        field: Field = (rng.choice(_NAMES), rng.choice((None, None, "", "a.png", "\u00e9;\\")), content)
        if rng.random() < 0.5:
            fields.append(field)
        else:
            fields[rng.randrange(len(fields))] = field
    if rng.random() < 0.02:
        fields *= rng.choice((60, 600))
    case = form(fields, extra=[rng.choice(_HEADERS)] if rng.random() < 0.3 else ())
    body, content_type = case.body, case.content_type
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        body = damaged(rng, body)
    if rng.random() < 0.3:
        kind = rng.choice(_TYPES)
        content_type = kind % BOUNDARY if "%s" in kind else kind
        if "urlencoded" in kind:
            body = urlencoded(rng)
    return Case(case.path, body, content_type)
