"""The service in this process: app, preprocess with decoder processes, grammar checks; only the model is a fake."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from transformers import AutoTokenizer

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, Delta, Event, Events, Finished, PictureSeen, Prompt, Started, Usage
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.structured.compiler import GrammarCompiler
from serve_app.ingress.app import create_app
from serve_app.metrics import SilentMeter
from serve_app.preprocess.decoder_pool import DecoderPool
from serve_app.preprocess.prepare import Preprocessor
from serve_app.settings import PreprocessSettings, Settings
from tests.fakes import FakeDescribe

DEADLINE_S: Final = 30.0  # of one case, on a busy machine; the largest CPU budgets together are less


class Hang(AssertionError):
    """A case was not answered within its deadline."""


@dataclass(frozen=True)
class Case:
    """One request."""

    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Reply:
    """What the app sent."""

    status: int
    body: bytes

    @property
    def message(self) -> str:
        """The sentence of an error."""
        return "" if self.status == 200 else str(json.loads(self.body)["error"]["message"])


class FuzzedService:
    """Used from one event loop; `close` ends its processes."""

    def __init__(self) -> None:
        limits = PreprocessSettings(max_image_pixels=4_000_000, max_request_pixels=8_000_000, dns_timeout_s=0.2)
        self.settings = Settings(preprocess=limits)
        self.decoders = DecoderPool(limits)
        self._preprocessor = Preprocessor(self.settings.model, limits, SilentMeter(), decoders=self.decoders)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(self.settings.model))
        size = len(tokenizer)
        self._grammars = GrammarCompiler(Vocabulary.of(tokenizer, size), frozenset([tokenizer.eos_token_id]), size)
        self._app = create_app(
            self.settings,
            self._answer,
            FakeDescribe(),
            self._preprocessor.tokenize,
            SilentMeter(),
            clock=time.monotonic,
        )

    async def send(self, case: Case) -> Reply:
        """The reply to a case; raises Hang."""
        reply = {"status": 0}
        chunks: list[bytes] = []
        unread = [{"type": "http.request", "body": case.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return unread.pop() if unread else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            reply["status"] = message.get("status", reply["status"])
            chunks.append(message.get("body", b""))

        headers = {"host": "localhost", "content-length": str(len(case.body))}
        if case.content_type:
            headers["content-type"] = case.content_type
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": case.path,
            "raw_path": case.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "client": ("127.0.0.1", 5),
            "server": ("localhost", 8000),
        }
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise Hang(f"no reply within {DEADLINE_S:g} s") from None
        return Reply(reply["status"], b"".join(chunks))

    async def close(self) -> None:
        await self._preprocessor.close()

    def _answer(self, request: ChatRequest) -> Events:
        return self._events(request)

    async def _events(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        prompt = await self._preprocessor.prepare(request)
        if prompt.constraint is not None or prompt.tools is not None:
            await asyncio.to_thread(self._check_grammar, prompt)
        tokens = len(prompt.token_ids)
        seen = tuple(
            PictureSeen(picture.original_size, picture.pixels.shape[1::-1], picture.tokens, picture.source)
            for picture in prompt.pictures
        )
        yield Started(tokens, prompt.image_tokens, prompt.stages_ms, seen)
        yield Delta("Two cats.", 3)
        yield Finished("stop", Usage(tokens, 3, prompt.image_tokens), prompt.stages_ms)

    def _check_grammar(self, prompt: Prompt) -> None:
        self._grammars.matcher(prompt, in_reasoning=False)


def check(reply: Reply) -> None:
    """Raises AssertionError for what no request may cause."""
    assert 200 <= reply.status < 500, f"status {reply.status}: {reply.body[:500]!r}"
    if reply.status != 200:
        error = json.loads(reply.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"].endswith((".", ".)", '."')), error["message"]
    for code in (b'"internal_error"', b'"engine_error"'):
        assert code not in reply.body, reply.body[-500:]
