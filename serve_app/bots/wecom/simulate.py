"""`glm-serve wecom simulate`: simulates WeCom for a running service and reports what works."""

from __future__ import annotations

import argparse
import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TextIO

import httpx
import uvicorn
from starlette.applications import Starlette

from serve_app.bots.secret_files import read_secret
from serve_app.bots.wecom.crypto import Crypto, CryptoError
from serve_app.bots.wecom.simulator import SimulatedPlatform, UnexpectedReply
from serve_app.callbacks import CALLBACK_PREFIX, Callback, CallbackReply
from serve_app.errors import InvalidRequest

ACK_S: Final = 1.0  # WeCom waits so long for the response to a new address; a user notices later frames
OLD_S: Final = 86_400
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mM8ISfHQG3AxEADMGroqKGjho4aOmroqK"
    "Gjho4aOvgMBQB+BAE8FfyCFgAAAABJRU5ErkJggg=="
)
Check = Callable[[], Awaitable[str]]


def run(options: argparse.Namespace, output: TextIO) -> int:
    """Runs all checks; returns the exit status."""
    try:
        crypto = Crypto(
            read_secret(str(options.token_file), "--token-file"),
            read_secret(str(options.aes_key_file), "--aes-key-file"),
        )
        picture = options.picture.read_bytes() if options.picture else PNG
    except (InvalidRequest, CryptoError, OSError) as error:
        output.write(f"glm-serve wecom: {error}\n")
        return 2
    return asyncio.run(play(options, crypto, picture, output))


async def play(options: argparse.Namespace, crypto: Crypto, picture: bytes, output: TextIO) -> int:
    """Runs all checks with this picture; returns the exit status."""
    async with httpx.AsyncClient(base_url=options.url, timeout=30, trust_env=False) as client:

        async def deliver(callback: Callback) -> CallbackReply:
            response = await client.request(
                callback.method, CALLBACK_PREFIX + callback.path, params=dict(callback.query), content=callback.body
            )
            return CallbackReply(response.content, response.headers.get("content-type", ""), response.status_code)

        platform = SimulatedPlatform(crypto, deliver, url=f"http://127.0.0.1:{options.port}", now=time.time)
        failed = 0
        async with serving(platform.app, options.port):
            for name, check in Checks(platform, deliver, picture, options).all():
                try:
                    result, word = await check(), "ok"
                except (UnexpectedReply, CryptoError, httpx.HTTPError, KeyError, ValueError) as error:
                    result, word = f"{type(error).__name__}: {error}", "FAILED"
                    failed += 1
                output.write(f"{word:<7} {name}: {result}\n")
                output.flush()
    output.write(f"{failed} checks failed.\n" if failed else "All checks passed.\n")
    return 1 if failed else 0


@asynccontextmanager
async def serving(app: Starlette, port: int) -> AsyncIterator[None]:
    """The platform's own addresses (pictures, response_url) on a port of this machine."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    running = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await running
        await server.shutdown()


class Checks:
    """What the simulator tries, one after the other."""

    def __init__(
        self,
        platform: SimulatedPlatform,
        deliver: Callable[[Callback], Awaitable[CallbackReply]],
        picture: bytes,
        options: argparse.Namespace,
    ) -> None:
        self._platform = platform
        self._deliver = deliver
        self._picture = picture
        self._question: str = options.question
        self._expected: str = options.expect
        self._chats: int = options.chats
        self._user = f"simulated-{time.time_ns()}"

    def all(self) -> list[tuple[str, Check]]:
        return [
            ("callback address", self._verification),
            ("picture and question", self._picture_question),
            ("follow-up question", self._follow_up),
            ("same message four times", self._repeated),
            ("many users at once", self._many),
            ("unknown stream", self._unknown_stream),
            ("expired picture", lambda: self._refused_picture(status=403)),
            ("picture with another key", lambda: self._refused_picture(key=bytes(32))),
            ("picture at another host", self._foreign_host),
            ("file that is no picture", self._no_picture),
            ("wrong signature", self._wrong_signature),
            ("old callback", self._old_callback),
            ("body of 2 MiB", self._large_body),
        ]

    async def _verification(self) -> str:
        seconds = await _timed(self._platform.verify_url())
        return _in_time(seconds, "verified")

    async def _picture_question(self) -> str:
        message = self._platform.mixed(self._user, self._question, self._platform.host(self._picture))
        started = time.monotonic()
        stream = await self._platform.send(message)
        first = _in_time(time.monotonic() - started, "first frame")
        answer = await self._platform.follow(stream)
        if self._expected not in answer:
            raise UnexpectedReply(f"The answer does not contain {self._expected!r}: {answer!r}")
        return f"{first}, complete after {time.monotonic() - started:.1f} s: {answer!r}"

    async def _follow_up(self) -> str:
        answer = await self._ask(self._platform.text(self._user, self._question))
        if self._expected not in answer:
            raise UnexpectedReply(f"The answer does not contain {self._expected!r}: {answer!r}")
        return repr(answer)

    async def _repeated(self) -> str:
        message = self._platform.text(f"{self._user}-repeated", self._question)
        streams = await asyncio.gather(*(self._platform.send(message) for _ in range(4)))
        if len({stream["id"] for stream in streams}) != 1:
            raise UnexpectedReply("Repeated deliveries got different streams.")
        await self._platform.follow(streams[0])
        return "one stream"

    async def _many(self) -> str:
        async def ask(number: int) -> float:
            user = f"{self._user}-{number}"
            message = self._platform.mixed(user, self._question, self._platform.host(self._picture))
            started = time.monotonic()
            stream = await self._platform.send(message)
            seconds = time.monotonic() - started
            answer = await self._platform.follow(stream)
            if self._expected not in answer:
                raise UnexpectedReply(f"User {number} got {answer!r}.")
            return seconds

        seconds = await asyncio.gather(*(ask(number) for number in range(self._chats)))
        return f"{self._chats} answers, slowest first frame after {max(seconds):.2f} s"

    async def _unknown_stream(self) -> str:
        stream = await self._platform.poll("unknown")
        if not stream["finish"]:
            raise UnexpectedReply("The stream is not finished, so WeCom would ask again and again.")
        return repr(stream["content"])

    async def _refused_picture(self, **fields: Any) -> str:
        user = f"{self._user}-picture"
        return repr(await self._ask(self._platform.image(user, self._platform.host(self._picture, **fields))))

    async def _foreign_host(self) -> str:
        return repr(await self._ask(self._platform.image(f"{self._user}-host", "http://169.254.169.254/x")))

    async def _no_picture(self) -> str:
        return repr(await self._ask(self._platform.image(f"{self._user}-file", self._platform.host(b"no picture"))))

    async def _wrong_signature(self) -> str:
        encrypted = self._platform.crypto.encrypt(b"{}")
        query = {**self._platform.query(encrypted), "msg_signature": "0" * 40}
        return await self._refused(query, b'{"encrypt": "%s"}' % encrypted.encode())

    async def _old_callback(self) -> str:
        encrypted = self._platform.crypto.encrypt(b"{}")
        query = self._platform.query(encrypted, int(time.time()) - OLD_S)
        return await self._refused(query, b'{"encrypt": "%s"}' % encrypted.encode())

    async def _large_body(self) -> str:
        return await self._refused({}, bytes(2 * 2**20))

    async def _refused(self, query: dict[str, str], body: bytes) -> str:
        reply = await self._deliver(Callback("wecom/bot", "POST", query, {}, body))
        if reply.status < 400:
            raise UnexpectedReply(f"It was accepted with status {reply.status}.")
        return f"refused with status {reply.status}"

    async def _ask(self, message: dict[str, Any]) -> str:
        return await self._platform.follow(await self._platform.send(message))


async def _timed(work: Awaitable[Any]) -> float:
    started = time.monotonic()
    await work
    return time.monotonic() - started


def _in_time(seconds: float, what: str) -> str:
    if seconds > ACK_S:
        raise UnexpectedReply(f"It took {seconds:.2f} s; the limit is {ACK_S:g} s.")
    return f"{what} after {seconds * 1000:.0f} ms"
