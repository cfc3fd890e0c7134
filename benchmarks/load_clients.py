"""Callers in several client processes, so that the clients are not what limits a service on many GPUs.

A task is a coroutine function of this module that runs in every process at the same time, each with its own arguments.
Times are those of the machine's clock, so the processes' results can be put together.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.endpoint import NOT_FROM_CACHE, EndpointError, StreamedAnswer, stream
from benchmarks.evaluation_set import data_url

TIMEOUT_S = 300.0
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Questions:
    """What callers ask: pictures by number from a folder, a text, answers of a fixed length."""

    model: str
    pictures: Path
    text: str
    answer_tokens: int

    def body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """A streamed chat request."""
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }

    def about(self, picture: int) -> dict[str, Any]:
        """The first message of a conversation."""
        url = data_url(picture_file(self.pictures, picture).read_bytes())
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.text}]
        return {"role": "user", "content": content}


@dataclass(frozen=True)
class Outcome:
    """One request, with the machine's clock at its beginning and end; `failure` is empty for a complete answer."""

    began: float
    ended: float
    turn: int  # of its caller or conversation, from 0
    first_token_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Work:
    """What one client process did; `cpu_share` near 1 means that it was what limited."""

    outcomes: list[Outcome]
    cpu_share: float


def picture_file(folder: Path, number: int) -> Path:
    return folder / f"{number}.jpg"


async def closed_loop(url: str, ask: Questions, pictures: Sequence[int], callers: int) -> list[Outcome]:
    """Each of the callers sends its next request after its last answer, until there is no picture left."""
    waiting, outcomes = iter(pictures), list[Outcome]()

    async def caller(client: httpx.AsyncClient) -> None:
        for turn, picture in enumerate(waiting):
            outcomes.append((await _ask(client, ask.body([ask.about(picture)]), turn))[0])

    async with _client(url) as client:
        await asyncio.gather(*(caller(client) for _ in range(callers)))
    return outcomes


async def conversations(url: str, ask: Questions, pictures: Sequence[int], turns: int) -> list[Outcome]:
    """One conversation about each picture, all at once; a question comes with all earlier ones and their answers."""
    outcomes = list[Outcome]()

    async def conversation(client: httpx.AsyncClient, picture: int) -> None:
        messages = [ask.about(picture)]
        for turn in range(turns):
            outcome, answer = await _ask(client, ask.body(messages), turn)
            outcomes.append(outcome)
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"And {turn}?"}]

    async with _client(url) as client:
        await asyncio.gather(*(conversation(client, picture) for picture in pictures))
    return outcomes


async def until_stopped(url: str, ask: Questions, pictures: Sequence[int], callers: int, stop: Any) -> list[Outcome]:
    """A closed loop over the pictures, again from the first after the last, until the event `stop` is set."""
    number, outcomes = iter(range(10**9)), list[Outcome]()

    async def caller(client: httpx.AsyncClient) -> None:
        turn = 0
        while not stop.is_set():
            picture = pictures[next(number) % len(pictures)]
            outcome, _ = await _ask(client, ask.body([ask.about(picture)]), turn)
            outcomes.append(outcome)
            turn += 1
            if outcome.failure:
                await asyncio.sleep(0.5)  # as a client that waits before it repeats; a refusal takes no time

    async with _client(url) as client:
        await asyncio.gather(*(caller(client) for _ in range(callers)))
    return outcomes


class LoadClients:
    """`number` client processes; made by `clients`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stop = _spawn.Event()
        pipes = [_spawn.Pipe() for _ in range(number)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            _spawn.Process(target=_serve, args=(theirs, self.stop), name="load", daemon=True) for _, theirs in pipes
        ]
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            pipe.recv()  # its imports are done

    def start(self, task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], stoppable: bool = False) -> None:
        """Start the task in every process with its arguments; `stoppable`: it also gets the event `stop`."""
        self.stop.clear()
        for pipe, each in zip(self._pipes, arguments, strict=True):
            pipe.send((task, each, stoppable))

    def results(self) -> list[Work]:
        """Wait for all processes; an error of one is raised here."""
        results = [pipe.recv() for pipe in self._pipes]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def run(self, task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Work]:
        self.start(task, arguments)
        return self.results()

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            process.kill()


@contextmanager
def clients(number: int) -> Iterator[LoadClients]:
    """So many client processes, ended at the end."""
    started = LoadClients(number)
    try:
        yield started
    finally:
        started.close()


def _serve(pipe: Connection, stop: Any) -> None:
    pipe.send("ready")
    while True:
        try:
            task, arguments, stoppable = pipe.recv()
        except EOFError:
            return
        try:
            began, began_cpu = time.perf_counter(), time.process_time()
            outcomes = asyncio.run(task(*arguments, *([stop] if stoppable else [])))
            seconds = time.perf_counter() - began
            pipe.send(Work(outcomes, round((time.process_time() - began_cpu) / max(seconds, 1e-9), 2)))
        except BaseException as error:
            pipe.send(RuntimeError(f"A client process failed: {error!r}"))


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False, headers=NOT_FROM_CACHE)


async def _ask(client: httpx.AsyncClient, body: dict[str, Any], turn: int) -> tuple[Outcome, str]:
    began = time.time()
    try:
        answer: StreamedAnswer = await stream(client, body)
    except EndpointError as error:
        return Outcome(began, time.time(), turn, failure=str(error)[:300]), ""
    outcome = Outcome(
        began,
        time.time(),
        turn,
        answer.first_token_s,
        answer.gaps_s,
        answer.prompt_tokens,
        answer.completion_tokens,
    )
    return outcome, answer.text
