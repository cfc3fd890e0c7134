"""Private mount, network and process namespaces, which end with this process however that ends.

Their first process reads a pipe that this process alone holds: when it closes, the kernel ends all others in there with
it. Nothing outside is touched. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")


class Namespaces:
    """A way in: for a thread, for a piece of work, for a shell script."""

    def __init__(self, keeper: psutil.Process) -> None:
        self.keeper = keeper
        self.inside = ThreadPoolExecutor(4, "inside", initializer=self.enter)

    def enter(self) -> None:
        """Moves the calling thread into the private network; for good, so make it a thread for that."""
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{self.keeper.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(namespace, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def call(self, work: Callable[[], Result], timeout_s: float = 60.0) -> Result:
        """What `work` returns, run in a thread that is in the private network."""
        return self.inside.submit(work).result(timeout_s)

    def sh(self, script: str) -> None:
        command = ["nsenter", "-t", str(self.keeper.pid), "-m", "-n", "-p", "bash", "-ec", script]
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if run.returncode:
            raise RuntimeError(f"{script}: {run.stderr}")


@contextmanager
def private_namespaces(setup: str) -> Iterator[psutil.Process]:
    """The first process of new namespaces in which this shell script has run."""
    script = f"{setup}\necho ready\nread -r _ || true"
    keeper = subprocess.Popen(
        ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin
    assert keeper.stdout
    try:
        assert keeper.stdout.readline() == "ready\n", "no namespaces: are we root?"
        yield init_of(keeper, depth=1)
    finally:
        keeper.stdin.close()
        keeper.wait(20)


def init_of(process: subprocess.Popen[Any], depth: int) -> psutil.Process:
    """The process below `process` that is number 1 in a process namespace so many below ours."""
    ours = len(_numbers("self"))
    limit = time.monotonic() + 10
    while time.monotonic() < limit and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                numbers = _numbers(child.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if len(numbers) == ours + depth and numbers[-1] == "1":
                return child
        time.sleep(0.02)
    raise RuntimeError(f"no first process below {process.args}")


def _numbers(process: int | str) -> list[str]:
    """A process's numbers, one in each process namespace that it is in."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[1:]
