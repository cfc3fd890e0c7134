"""The bots over the real service and the demo model, with simulated platforms: WeCom's AI bot, DingTalk, Feishu."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from serve_app.bots.conversation.texts import EN
from serve_app.bots.wecom.crypto import Crypto
from serve_app.bots.wecom.simulate import serving
from serve_app.bots.wecom.simulator import SimulatedPlatform, UnexpectedReply
from serve_app.callbacks import Callback, CallbackReply
from tests.bots import dingtalk_platform, feishu_platform
from tests.cluster.conftest import Service, started
from tests.cluster.questions import EVALUATION, data_url, picture_body
from tests.ports import free_port
from tests.preprocess.pictures import bomb
from tests.redis_server import RedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

TOKEN, KEY = "QDG6eK", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
FIRST_FRAME_S = 1.0  # the promise; the fastest of some, since tests share the machine
CHATS = 100
RESTART_S = 60.0
ANSWER_S = 60.0


@pytest.fixture(scope="module")
def redis_of_bots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def platform_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def other_ports() -> tuple[int, int]:
    """Of DingTalk and of Feishu."""
    return free_port(), free_port()


@pytest.fixture(scope="module")
def bots(
    tmp_path_factory: pytest.TempPathFactory,
    redis_of_bots: RedisServer,
    platform_port: int,
    other_ports: tuple[int, int],
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("bots")
    secrets = {"token": TOKEN, "aes_key": KEY, "dingtalk": dingtalk_platform.SECRET, "feishu": feishu_platform.SECRET}
    secrets |= {"encrypt_key": feishu_platform.ENCRYPT_KEY, "verification_token": feishu_platform.TOKEN}
    for name, secret in secrets.items():
        (folder / name).write_text(secret)
    dingtalk, feishu = (f"http://127.0.0.1:{port}" for port in other_ports)
    variables = {
        "GLM_BOTS__ENABLED": "true",
        "GLM_BOTS__LANGUAGE": "en",
        "GLM_BOTS__MAX_WAITING": "200",
        "GLM_BOTS__STATE": "redis",
        "GLM_BOTS__REDIS_URL": redis_of_bots.url,
        "GLM_WECOM__BOT": "webhook",
        "GLM_WECOM__TOKEN_FILE": str(folder / "token"),
        "GLM_WECOM__AES_KEY_FILE": str(folder / "aes_key"),
        "GLM_WECOM__PICTURE_HOSTS": f'["http://127.0.0.1:{platform_port}"]',
        "GLM_WECOM__API_URL": f"http://127.0.0.1:{platform_port}",
        "GLM_DINGTALK__BOT": "webhook",
        "GLM_DINGTALK__CLIENT_ID": dingtalk_platform.CLIENT_ID,
        "GLM_DINGTALK__CLIENT_SECRET_FILE": str(folder / "dingtalk"),
        "GLM_DINGTALK__PICTURE_HOSTS": f'["{dingtalk}"]',
        "GLM_DINGTALK__API_URL": dingtalk,
        "GLM_DINGTALK__REPLY_URL": dingtalk,
        "GLM_FEISHU__APP_ID": feishu_platform.APP_ID,
        "GLM_FEISHU__APP_SECRET_FILE": str(folder / "feishu"),
        "GLM_FEISHU__ENCRYPT_KEY_FILE": str(folder / "encrypt_key"),
        "GLM_FEISHU__VERIFICATION_TOKEN_FILE": str(folder / "verification_token"),
        "GLM_FEISHU__API_URL": feishu,
    }
    with started(folder, **variables) as running:
        yield running


@asynccontextmanager
async def platform(service: Service, port: int) -> AsyncIterator[SimulatedPlatform]:
    """WeCom, which calls the service over HTTP."""
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=service.base_url, timeout=60, trust_env=False, limits=limits) as client:

        async def deliver(callback: Callback) -> CallbackReply:
            query = dict(callback.query)
            response = await client.request(
                callback.method, f"/bots/{callback.path}", params=query, content=callback.body
            )
            return CallbackReply(response.content, response.headers["content-type"], response.status_code)

        one = SimulatedPlatform(Crypto(TOKEN, KEY), deliver, url=f"http://127.0.0.1:{port}", now=time.time)
        async with serving(one.app, port):
            yield one


def labels() -> list[dict[str, Any]]:
    """Questions about waybills, each with another picture."""
    lines = (EVALUATION / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [question for question in map(json.loads, lines) if question["kind"] == "tracking"]
    return list({question["picture"]: question for question in asked}.values())[:4]


def picture(question: dict[str, Any]) -> bytes:
    return (EVALUATION / question["picture"]).read_bytes()


@pytest.fixture(scope="module")
def asked(bots: Service) -> list[dict[str, Any]]:
    """Questions with the service's own answers over HTTP, which the bots must give too."""
    found = labels()
    with bots.client() as client:
        for question in found:
            body = picture_body(data_url(picture(question)), question["question"], temperature=0)
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            question["given"] = answer["choices"][0]["message"]["content"]
    assert any(question["answer"] in question["given"] for question in found)
    assert len({question["given"] for question in found}) == len(found)
    return found


async def test_a_picture_gets_its_first_frame_within_a_second_and_the_right_answer(
    bots: Service, platform_port: int, asked: list[dict[str, Any]]
) -> None:
    first_frames = []
    async with platform(bots, platform_port) as wecom:
        await wecom.verify_url()
        for number, question in enumerate(asked):
            message = wecom.mixed(f"user {number}", question["question"], wecom.host(picture(question)))
            begun = time.monotonic()
            stream = await wecom.send(message)
            first_frames.append(time.monotonic() - begun)
            assert await wecom.follow(stream, interval_s=0.1) == question["given"]
    assert min(first_frames) < FIRST_FRAME_S


async def test_the_same_message_four_times_at_once_is_one_question_to_the_model(
    bots: Service, platform_port: int
) -> None:
    def answers() -> int:
        return bots.log().count("Answer of wecom_bot: ok")

    async def settled() -> int:
        """Their number once no more are added: the log is copied to the console a moment later."""
        number = -1
        while answers() != number:
            number = answers()
            await asyncio.sleep(1.5)
        return number

    before = await settled()
    async with platform(bots, platform_port) as wecom:
        message = wecom.text("four times", "Hello?")
        streams = await asyncio.gather(*(wecom.send(message) for _ in range(4)))
        assert len({stream["id"] for stream in streams}) == 1
        await wecom.follow(streams[0], interval_s=0.1)
    await asyncio.to_thread(wait_until, lambda: answers() > before, 20, "no line of the answer")
    assert await settled() == before + 1


async def test_a_hundred_chats_at_once_are_not_mixed_up(
    bots: Service, platform_port: int, asked: list[dict[str, Any]]
) -> None:
    async with platform(bots, platform_port) as wecom:

        async def chat(number: int) -> bool:
            question = asked[number % len(asked)]
            url = wecom.host(picture(question))
            message = wecom.mixed(f"chat user {number}", question["question"], url, chat=f"chat {number}")
            return await wecom.follow(await wecom.send(message), interval_s=1.0) == question["given"]

        assert all(await asyncio.gather(*(chat(number) for number in range(CHATS))))


async def test_a_decompression_bomb_is_refused_and_the_next_picture_of_the_chat_is_answered(
    bots: Service, platform_port: int, asked: list[dict[str, Any]]
) -> None:
    question = asked[0]
    async with platform(bots, platform_port) as wecom:
        for message, content in (
            (wecom.image("attacker", wecom.host(bomb(20_000, 20_000))), EN.image_rejected),
            (wecom.mixed("attacker", question["question"], wecom.host(picture(question))), question["given"]),
        ):
            assert await wecom.follow(await wecom.send(message), interval_s=0.1) == content


async def test_dingtalk_and_feishu_get_the_right_answers_to_a_picture(
    bots: Service, other_ports: tuple[int, int], asked: list[dict[str, Any]]
) -> None:
    question, (dingtalk_port, feishu_port) = asked[0], other_ports
    dingtalk = dingtalk_platform.DingtalkPlatform(time.time, f"http://127.0.0.1:{dingtalk_port}")
    feishu = feishu_platform.FeishuPlatform(time.time)
    async with (
        serving(dingtalk.app, dingtalk_port),
        serving(feishu.app, feishu_port),
        httpx.AsyncClient(base_url=bots.base_url, timeout=60, trust_env=False) as client,
    ):
        asked_by_dingtalk = dingtalk.rich("ann", question["question"], dingtalk.host(picture(question)))
        asked_by_feishu = feishu.post("ann", question["question"], feishu.host(picture(question)))
        for callback in (dingtalk.callback(asked_by_dingtalk), feishu.callback(asked_by_feishu)):
            path, headers = f"/bots/{callback.path}", dict(callback.headers)
            (await client.post(path, content=callback.body, headers=headers)).raise_for_status()
        ends_at, answers = time.monotonic() + ANSWER_S, ("", "")
        while time.monotonic() < ends_at and answers != (question["given"], question["given"]):
            await asyncio.sleep(0.1)
            replies = [reply["markdown"]["text"] for reply in dingtalk.replies]  # the first may be a notice
            answers = ("".join(replies[-1:]), "".join(feishu.answers))
    assert answers == (question["given"], question["given"])


async def test_a_killed_process_of_bots_in_the_middle_of_an_answer_loses_nothing(
    bots: Service, platform_port: int, asked: list[dict[str, Any]]
) -> None:
    question = asked[0]
    async with platform(bots, platform_port) as wecom:
        message = wecom.mixed("restarted", question["question"], wecom.host(picture(question)))
        stream = await wecom.send(message)
        (process,) = bots.processes("glm:bots")
        os.kill(process.pid, signal.SIGKILL)
        ends_at, answer = time.monotonic() + RESTART_S, ""
        while time.monotonic() < ends_at and not answer:
            await asyncio.sleep(0.5)
            with suppress(UnexpectedReply):  # no process of bots runs yet: WeCom asks again
                polled = await wecom.poll(stream["id"])
                answer = polled["content"] if polled["finish"] else ""
        assert answer == question["given"]
        repeated = await wecom.send(message)
        assert (repeated["id"], repeated["content"]) == (stream["id"], answer)
