"""Records timestamps of functions of the service for request_path.py; Python imports this file in each process.

Each process writes lines of "nanoseconds of the monotonic clock, name of the trace point" to a file of its own in
TRACE_FOLDER. A thread writes them every 0.2 s, because a write at the trace point would release Python's GIL there.
"""

import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from importlib.machinery import ModuleSpec
from typing import Any

FOLDER = os.environ.get("TRACE_FOLDER", "")
WRITE_EVERY_S = 0.2
# Functions by module. "begin" and "end" of a call; "text" is the first item of a generator with text of the answer.
TRACE_POINTS = {
    "serve_app.ingress.http_protocol": {
        "BoundedHttpProtocol.on_headers_complete": {"begin": "headers"},
        "BoundedHttpProtocol.on_message_complete": {"begin": "body"},
    },
    "serve_app.pipeline": {
        "with_digests": {"begin": "validated", "end": "hashed"},
        "Pipeline._generate": {"begin": "prompt", "text": "text in ingress"},
    },
    "serve_app.preprocess.prepare": {"Preprocessor.prepare": {"begin": "in preprocess", "end": "prepared"}},
    "serve_app.engine.replica": {
        "EngineReplica._submit": {"begin": "in engine", "end": "submitted"},
        "EngineReplica._dispatch": {"begin": "dispatched"},
        "EngineReplica.generate": {"text": "text sent"},
    },
    "serve_app.engine.loop": {"EngineLoop._start": {"begin": "admitted"}},
    "serve_app.engine.step_executor": {
        "StepExecutor.launch": {"begin": "step", "end": "launched"},
        "StepExecutor.sample": {"end": "sampling launched"},
        "StepExecutor.collect": {"end": "tokens read"},
    },
}
_records: list[str] = []


def traced(function: Any, points: dict[str, str]) -> Any:
    """The function, which records a timestamp at each of its trace points."""

    def at(moment: str) -> None:
        if moment in points:
            _records.append(f"{time.monotonic_ns()} {points[moment]}\n")

    if inspect.isasyncgenfunction(function):

        async def generate(*args: Any, **options: Any) -> AsyncGenerator[Any, None]:
            at("begin")
            items, has_text = function(*args, **options), False
            try:
                async for item in items:
                    if not has_text and any(hasattr(one, "text") for one in (item if type(item) is tuple else [item])):
                        has_text = True
                        at("text")
                    yield item
            finally:
                await items.aclose()

        return functools.wraps(function)(generate)

    if inspect.iscoroutinefunction(function):

        async def call(*args: Any, **options: Any) -> Any:
            at("begin")
            try:
                return await function(*args, **options)
            finally:
                at("end")

        return functools.wraps(function)(call)

    def call_at_once(*args: Any, **options: Any) -> Any:
        at("begin")
        try:
            return function(*args, **options)
        finally:
            at("end")

    return functools.wraps(function)(call_at_once)


class Finder(importlib.abc.MetaPathFinder):
    """Replaces the functions of a module right after its import."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in TRACE_POINTS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_replace(module: Any) -> None:
            execute(module)
            for function, points in TRACE_POINTS[name].items():
                *owners, attribute = function.split(".")
                owner = functools.reduce(getattr, owners, module)
                setattr(owner, attribute, traced(getattr(owner, attribute), points))

        spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def write() -> None:
    """Writes new records, forever."""
    while True:
        time.sleep(WRITE_EVERY_S)
        if _records:
            lines = "".join(_records[: (count := len(_records))])
            del _records[:count]
            with open(f"{FOLDER}/{os.getpid()}", "a") as file:
                file.write(lines)


if FOLDER:
    sys.meta_path.insert(0, Finder())
    threading.Thread(target=write, name="trace", daemon=True).start()
