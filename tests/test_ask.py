"""`glm-serve ask` against a small fake HTTP server."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from serve_app import cli
from serve_app.ask import AskFailed, Question, ask


class Service:
    """Answers every question with the same reply and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.pause_s = 0.0  # before each chunk
        self.chunks: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.languages: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.languages.append(self.headers["Accept-Language"])
                service.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(service.status)
                self.end_headers()
                if service.status != 200:
                    self.wfile.write(json.dumps(service.chunks[0]).encode())
                    return
                for chunk in service.chunks:
                    time.sleep(service.pause_s)
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, *words: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def says(self, *texts: str, finish_reason: str = "stop") -> None:
        self.chunks = [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
        self.chunks.append({"choices": [{"delta": {}, "finish_reason": finish_reason}]})
        self.chunks.append({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": len(texts)}})


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield service
    service.server.shutdown()
    service.server.server_close()
    thread.join()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "label.png"
    file.write_bytes(b"\x89PNG" + bytes(2000))
    return file


def test_the_answer_is_written_as_it_comes(service: Service):
    service.says("Two ", "cats")
    answer = io.StringIO()
    ask(service.url, Question("What is this?"), answer=answer)
    assert answer.getvalue() == "Two cats\n"


def test_pictures_go_before_the_question_in_their_order(service: Service, picture: Path):
    service.says("x")
    pictures = (str(picture), "https://example.org/b.jpg")
    ask(service.url, Question("What changed?", pictures), answer=io.StringIO())
    *pictures, question = service.asked[0]["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in pictures]
    assert base64.b64decode(urls[0].removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert urls[1] == "https://example.org/b.jpg"
    assert question == {"type": "text", "text": "What changed?"}


def test_progress_and_timings_are_written_beside_the_answer(service: Service, picture: Path):
    service.says("Two ", "cats")
    answer, progress = io.StringIO(), io.StringIO()
    ask(service.url, Question("?", (str(picture),)), answer=answer, progress=progress)
    assert answer.getvalue() == "Two cats\n"
    reading, timings = progress.getvalue().splitlines()
    assert reading == "reading label.png: 2 KB"
    assert timings.startswith("first token after ")
    assert timings.endswith("40 tokens in, 2 out")


def test_the_services_error_message_is_printed(service: Service, capsys: pytest.CaptureFixture[str]):
    service.status = 400
    service.chunks = [{"error": {"message": "image 1 is broken", "type": "", "param": None, "code": "invalid_image"}}]
    assert cli.main(["ask", "--url", service.url, "?"]) == 1
    assert capsys.readouterr().err == "glm-serve: image 1 is broken\n"


def test_a_failure_after_the_first_word_is_raised(service: Service):
    service.says("Two ")
    service.chunks.append({"error": {"message": "the engine failed", "code": "engine_error"}})
    with pytest.raises(AskFailed, match="the engine failed"):
        ask(service.url, Question("?"), answer=io.StringIO())


def test_a_stranger_at_the_address_is_recognised(service: Service):
    service.status = 404
    service.chunks = [{"detail": "Not Found"}]
    with pytest.raises(AskFailed, match="answered 404"):
        ask(service.url, Question("?"))


def test_a_missing_service_is_reported_with_what_to_do(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["ask", "--url", url, "?"]) == 1
    assert capsys.readouterr().err == f"glm-serve: No service answers at {url}. Start one with `glm-serve up`.\n"


def test_a_missing_picture_is_named(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["ask", "nowhere.png", "?"]) == 1
    assert "Can't read the picture nowhere.png: No such file" in capsys.readouterr().err


def test_the_answer_goes_to_standard_output(service: Service, capsys: pytest.CaptureFixture[str]):
    service.says("编号 123", "\n")
    assert cli.main(["ask", "--url", service.url, "--max-tokens", "8", "编号？"]) == 0
    assert capsys.readouterr().out == "编号 123\n"
    assert service.asked[0]["max_tokens"] == 8


def test_an_unusable_url_is_reported():
    with pytest.raises(AskFailed, match="is not the URL of a service"):
        ask("localhost", Question("?"))


@pytest.mark.parametrize(("locale", "language"), [("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en")])
def test_errors_of_the_service_come_in_the_language_of_the_terminal(
    service: Service, monkeypatch: pytest.MonkeyPatch, locale: str, language: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    service.says("42")
    ask(service.url, Question("How many?"))
    assert service.languages == [language]


def test_a_service_on_this_machine_is_asked_without_the_proxy_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.says("here")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    for url in (service.url, service.url.replace("127.0.0.1", "localhost")):
        answer = io.StringIO()
        ask(url, Question("?"), answer=answer)
        assert answer.getvalue() == "here\n"


def test_a_service_on_another_machine_is_asked_by_the_proxy_of_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.says("from afar")
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("NO_PROXY", raising=False)
    answer = io.StringIO()
    ask("http://gpu-server.invalid:8000", Question("?"), answer=answer)
    assert answer.getvalue() == "from afar\n"


@pytest.mark.parametrize("key", ["密钥", "glm-one\nglm-two"])
def test_a_file_that_has_no_key_is_refused_without_its_content(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """A key that is not ASCII ended in a UnicodeEncodeError."""
    file = tmp_path / "key"
    file.write_text(key, encoding="utf-8")
    assert cli.main(["ask", "--url", service.url, "--key-file", str(file), "?"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("glm-serve: The file of --key-file has characters that no API key has.")
    assert key not in shown
    assert service.asked == []
