"""Bad input to the service gets its status, its code and a sentence with the limit; the next request works."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.cluster.conftest import Service
from tests.cluster.questions import EVALUATION, chat_body, questions

pytestmark = pytest.mark.cluster

Body = dict[str, Any]


def png_bomb(side: int = 30_000) -> bytes:
    """A valid PNG of one-bit black, a few KB for 900 megapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int, height: int, quality: int = 90) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def with_picture(content: bytes | str) -> Body:
    url = content if isinstance(content, str) else f"data:image/png;base64,{base64.b64encode(content).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8}


def with_text(text: str, **settings: Any) -> Body:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **settings}


CASES: dict[str, tuple[Callable[[], Body], int, str, str]] = {
    "not an image": (lambda: with_picture(b"not a picture"), 400, "invalid_image", "JPEG"),
    "damaged PDF": (lambda: with_picture(b"%PDF-1.7 not a document"), 400, "invalid_image", "PDF"),
    "truncated JPEG": (lambda: with_picture(jpeg(300, 200)[:4000]), 400, "invalid_image", "incomplete"),
    "decompression bomb": (lambda: with_picture(png_bomb()), 400, "invalid_image", "65"),
    "zero bytes": (lambda: with_picture(b""), 400, "invalid_image", "empty"),
    "aspect over 200 to 1": (lambda: with_picture(jpeg(4030, 20)), 400, "invalid_image", "200"),
    "invalid base64": (lambda: with_picture("data:image/png;base64,@@@@"), 400, "invalid_image", "base64"),
    "a local address": (lambda: with_picture("http://127.0.0.1/x.png"), 400, "invalid_image", "127.0.0.1"),
    "a file path": (lambda: with_picture("file:///etc/passwd"), 400, "invalid_image", "http"),
    "empty question": (lambda: with_text("  "), 400, "invalid_request", "empty"),
    "too long context": (lambda: with_text("字" * 40_000), 400, "context_length_exceeded", "context"),
    "negative max_tokens": (lambda: with_text("Hi", max_tokens=-5), 400, "invalid_request", "max_tokens"),
    "unknown model": (lambda: with_text("Hi", model="gpt-9"), 404, "model_not_found", "gpt-9"),
    "unsupported part": (
        lambda: {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        400,
        "invalid_request",
        "input_audio",
    ),
}


def works(client: httpx.Client) -> bool:
    (question,) = questions(per_job=1)[:1]
    return client.post("/v1/chat/completions", json=chat_body(question, max_tokens=2)).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["not streaming", "streaming"])
@pytest.mark.parametrize("case", CASES)
def test_bad_chat_is_refused_with_a_sentence_and_the_next_request_works(
    service: Service, case: str, stream: bool
) -> None:
    make, status, code, word = CASES[case]
    with service.client() as client:
        response = client.post("/v1/chat/completions", json={**make(), "stream": stream})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert word in response.json()["error"]["message"]
        assert works(client)


def test_a_body_over_the_limit_is_refused_with_the_limit(service: Service) -> None:
    with service.client() as client:
        response = client.post("/v1/chat/completions", content=b" " * (64 * 2**20 + 1))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert "64" in response.json()["error"]["message"]
        assert works(client)


def test_what_is_not_json_is_refused(service: Service) -> None:
    with service.client() as client:
        response = client.post("/v1/chat/completions", content=b'{"messages": [')
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
        assert "JSON" in response.json()["error"]["message"]
        assert works(client)


@pytest.mark.parametrize(
    ("picture", "question", "code", "field"),
    [
        (b"", "What is it?", "invalid_image", "image"),
        (b"not a picture", "What is it?", "invalid_image", "image"),
        (jpeg(64, 64), "", "invalid_request", "question"),
        (jpeg(64, 64)[:200], "What is it?", "invalid_image", "image"),
        (png_bomb(), "What is it?", "invalid_image", "image"),
    ],
    ids=["zero bytes", "not an image", "empty question", "truncated", "bomb"],
)
def test_a_bad_upload_is_refused_with_its_field(
    service: Service, picture: bytes, question: str, code: str, field: str
) -> None:
    with service.client() as client:
        response = client.post("/v1/ask", files={"image": ("x.png", picture)}, data={"question": question})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, code, field)
        assert works(client)


def test_an_upload_is_answered_with_usage_and_timings(service: Service) -> None:
    (question,) = questions(per_job=1)[:1]
    with service.client() as client:
        response = client.post(
            "/v1/ask",
            files={"image": (EVALUATION / question["picture"]).read_bytes()},
            data={"question": question["question"], "temperature": "0"},
        )
    body = response.json()
    assert response.status_code == 200
    assert body["answer"]
    assert body["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert {"decode_ms", "resize_ms", "queue_ms", "encode_ms", "prefill_ms", "total_ms"} <= body["timings"].keys()
    assert "prefill;dur=" in response.headers["server-timing"]
